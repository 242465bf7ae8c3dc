// TLS 1.3 with an external pre-shared key (RFC 8446, 4.2.11) over a non-blocking transport.
//
// One cipher suite, one group, ephemeral keys always (psk_dhe_ke), no certificates, no tickets, no
// early data. OpenSSL works on the transport through BIOs of our own: reads go straight into its
// record buffer, made large so that one read(2) brings many records; written records are gathered
// and leave in one write(2). asio::ssl::stream was measured beside this and rejected: it moves one
// record of 16 KiB a system call in each direction (figures in docs/protocol.md), and it wants a
// socket.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "net/key.h"
#include "net/preface.h"
#include "net/transport.h"

namespace rfork::net {

struct TlsState;

class TlsStream {
 public:
  /// Borrows `transport`. Throws Error when OpenSSL can't be set up.
  TlsStream(Transport& transport, Role role, const Key& key);
  ~TlsStream();

  /// One step of the handshake; `done` (with size 0) when it is complete. Throws
  /// Refusal(destination_refused) without the peer's name ("has another key") when the keys differ.
  Io handshake();
  /// As Transport::read().
  Io read(std::span<std::byte> buffer);
  /// Encrypts the next bytes, as many as fit; they leave with flush() at the latest.
  Io write(std::span<const std::byte> data);
  /// `done` (with size 0) when everything written has left.
  Io flush();
  /// Whether decrypted bytes can be read without the transport.
  bool input_waiting() const;

 private:
  std::unique_ptr<TlsState> state_;
};

/// Lets OpenSSL look its algorithms up now, for the connections of this process at this end and of
/// those that it forks: some milliseconds.
void prepare_tls(Role role);

}  // namespace rfork::net
