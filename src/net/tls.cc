#include "net/tls.h"

#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <utility>

#include "base/error.h"
#include "base/io.h"

namespace rfork::net {

namespace {

constexpr std::string_view kIdentity = "rfork";
constexpr size_t kReadBuffer = 128u << 10;  ///< of OpenSSL: ciphertext that one read(2) may bring
constexpr size_t kWriteBuffer = 64u << 10;  ///< ciphertext that one write(2) may take
constexpr size_t kRecord = SSL3_RT_MAX_PLAIN_LENGTH;
constexpr unsigned char kAes128GcmSha256[2] = {0x13, 0x01};

template <typename T, void (*Free)(T*)>
struct Freed {
  void operator()(T* object) const { Free(object); }
};
using Context = std::unique_ptr<SSL_CTX, Freed<SSL_CTX, SSL_CTX_free>>;
using Ssl = std::unique_ptr<SSL, Freed<SSL, SSL_free>>;

[[noreturn]] void throw_tls(std::string_view operation) {
  const unsigned long code = ERR_get_error();
  const char* reason = code != 0 ? ERR_reason_error_string(code) : nullptr;
  ERR_clear_error();
  throw Refusal(Failure::internal,
                fmt::format("{}: {}", operation, reason != nullptr ? reason : "unknown TLS error"));
}

}  // namespace

/// All of it, because OpenSSL's callbacks get a pointer to it.
struct TlsState {
  TlsState(Transport& below, Role end, const Key& secret)
      : transport(below), role(end), key(secret) {}

  Transport& transport;
  Role role;
  Key key;
  Ssl ssl;
  Bytes outgoing;             ///< ciphertext that has not left
  size_t outgoing_at = 0;     ///< what of it has
  std::exception_ptr broken;  ///< to be thrown: out of OpenSSL's C code, or at the next read

  Io push();
  Io blocked(int result, std::string_view operation);
};

namespace {

SSL_SESSION* make_session(SSL* ssl, const Key& key) {
  SSL_SESSION* session = SSL_SESSION_new();
  const SSL_CIPHER* cipher = SSL_CIPHER_find(ssl, kAes128GcmSha256);
  const auto* bytes = reinterpret_cast<const unsigned char*>(key.bytes().data());
  if (session == nullptr || cipher == nullptr ||
      SSL_SESSION_set1_master_key(session, bytes, kKeySize) != 1 ||
      SSL_SESSION_set_cipher(session, cipher) != 1 ||
      SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) != 1) {
    SSL_SESSION_free(session);
    return nullptr;
  }
  return session;
}

/// Client: SSL_psk_use_session_cb_func. OpenSSL takes the session.
int use_session(SSL* ssl, const EVP_MD*, const unsigned char** identity, size_t* size,
                SSL_SESSION** session) {
  const auto* state = static_cast<const TlsState*>(SSL_get_app_data(ssl));
  *session = make_session(ssl, state->key);
  *identity = reinterpret_cast<const unsigned char*>(kIdentity.data());
  *size = kIdentity.size();
  return *session != nullptr ? 1 : 0;
}

/// Server: SSL_psk_find_session_cb_func. An unknown identity is no error here: without a session
/// and without a certificate the handshake fails by itself.
int find_session(SSL* ssl, const unsigned char* identity, size_t size, SSL_SESSION** session) {
  const auto* state = static_cast<const TlsState*>(SSL_get_app_data(ssl));
  *session = nullptr;
  if (size != kIdentity.size() || std::memcmp(identity, kIdentity.data(), size) != 0) return 1;
  *session = make_session(ssl, state->key);
  return *session != nullptr ? 1 : 0;
}

int bio_read(BIO* bio, char* data, size_t size, size_t* got) {
  auto* state = static_cast<TlsState*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  *got = 0;
  try {
    const Io io = state->transport.read(std::as_writable_bytes(std::span(data, size)));
    *got = io.size;
    if (io.state == Io::State::done) return 1;
    if (io.state == Io::State::want_read) BIO_set_retry_read(bio);
  } catch (...) {
    state->broken = std::current_exception();
  }
  return 0;
}

int bio_write(BIO* bio, const char* data, size_t size, size_t* taken) {
  auto* state = static_cast<TlsState*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  *taken = 0;
  try {
    const auto bytes = std::as_bytes(std::span(data, size));
    state->outgoing.insert(state->outgoing.end(), bytes.begin(), bytes.end());
    *taken = size;
    return 1;
  } catch (...) {
    state->broken = std::current_exception();
    return 0;
  }
}

long bio_control(BIO*, int command, long, void*) {
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

BIO_METHOD* bio_method() {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "rfork transport");
    if (made == nullptr || BIO_meth_set_read_ex(made, bio_read) != 1 ||
        BIO_meth_set_write_ex(made, bio_write) != 1 || BIO_meth_set_ctrl(made, bio_control) != 1) {
      throw_tls("BIO_meth_new");
    }
    return made;
  }();
  return method;
}

/// Nothing of the system's openssl.cnf concerns this protocol, and reading it takes as long as a
/// handshake.
void initialize() {
  static const int done =
      OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ADD_ALL_CIPHERS |
                           OPENSSL_INIT_NO_ADD_ALL_DIGESTS,
                       nullptr);
  if (done != 1) throw_tls("OPENSSL_init_ssl");
}

Context make_context(Role role) {
  initialize();
  Context context(SSL_CTX_new(role == Role::client ? TLS_client_method() : TLS_server_method()));
  if (!context) throw_tls("SSL_CTX_new");
  SSL_CTX* const c = context.get();
  if (SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_max_proto_version(c, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(c, "TLS_AES_128_GCM_SHA256") != 1 ||
      SSL_CTX_set1_groups_list(c, "X25519") != 1 || SSL_CTX_set_num_tickets(c, 0) != 1) {
    throw_tls("SSL_CTX_set");
  }
  SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(c, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(c, 1);
  SSL_CTX_set_default_read_buffer_len(c, kReadBuffer);
  if (role == Role::client) {
    SSL_CTX_set_psk_use_session_callback(c, use_session);
  } else {
    SSL_CTX_set_psk_find_session_callback(c, find_session);
  }
  return context;
}

/// One a process serves all its connections: OpenSSL takes longer to make it than to shake hands.
SSL_CTX* context_of(Role role) {
  if (role == Role::client) {
    static const Context client = make_context(Role::client);
    return client.get();
  }
  static const Context server = make_context(Role::server);
  return server.get();
}

}  // namespace

/// Writes gathered ciphertext out.
Io TlsState::push() {
  while (outgoing_at < outgoing.size()) {
    const Io io = transport.write(std::span(outgoing).subspan(outgoing_at));
    if (io.state != Io::State::done) return io;
    outgoing_at += io.size;
  }
  outgoing.clear();
  outgoing_at = 0;
  return {};
}

/// What a failed call of OpenSSL asks for; throws when it is an error.
Io TlsState::blocked(int result, std::string_view operation) {
  const int error = SSL_get_error(ssl.get(), result);
  if (broken) std::rethrow_exception(std::exchange(broken, nullptr));
  switch (error) {
    case SSL_ERROR_WANT_READ:
      return {Io::State::want_read, 0};
    case SSL_ERROR_WANT_WRITE:
      return {Io::State::want_write, 0};
    case SSL_ERROR_ZERO_RETURN:
      return {Io::State::closed, 0};
    default:
      break;
  }
  // An end without close_notify. Frames say where a message ends, so a cut is seen above.
  const unsigned long code = ERR_peek_error();
  if (error == SSL_ERROR_SYSCALL && code == 0) return {Io::State::closed, 0};
  if (ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
    ERR_clear_error();
    return {Io::State::closed, 0};
  }
  throw_tls(operation);
}

TlsStream::TlsStream(Transport& transport, Role role, const Key& key)
    : state_(std::make_unique<TlsState>(transport, role, key)) {
  state_->ssl.reset(SSL_new(context_of(role)));
  BIO* const bio = state_->ssl ? BIO_new(bio_method()) : nullptr;
  if (bio == nullptr) throw_tls("SSL_new");
  BIO_set_data(bio, state_.get());
  BIO_set_init(bio, 1);
  SSL_set_bio(state_->ssl.get(), bio, bio);  // one reference serves both directions
  SSL_set_app_data(state_->ssl.get(), state_.get());
  if (role == Role::client) {
    SSL_set_connect_state(state_->ssl.get());
  } else {
    SSL_set_accept_state(state_->ssl.get());
  }
  state_->outgoing.reserve(kWriteBuffer + 2 * kRecord);
}

TlsStream::~TlsStream() = default;

Io TlsStream::handshake() {
  ERR_clear_error();
  const int result = SSL_do_handshake(state_->ssl.get());
  if (result == 1) return flush();
  Io next;
  try {
    next = state_->blocked(result, "TLS handshake");
  } catch (const Refusal&) {
    state_->push();  // the alert, if it can leave at once
    throw Refusal(
        Failure::destination_refused, "has another key",
        state_->role == Role::client ? "copy the key file of the daemon's host here" : "");
  }
  const Io left = flush();
  return left.state == Io::State::done ? next : left;
}

Io TlsStream::read(std::span<std::byte> buffer) {
  if (state_->broken) std::rethrow_exception(std::exchange(state_->broken, nullptr));
  size_t filled = 0;
  do {  // a record a call: all that are here
    const auto rest = buffer.subspan(filled);
    size_t got = 0;
    ERR_clear_error();
    if (const int result = SSL_read_ex(state_->ssl.get(), rest.data(), rest.size(), &got);
        result != 1) {
      if (filled == 0) return state_->blocked(result, "TLS read");
      try {
        state_->blocked(result, "TLS read");
      } catch (...) {
        state_->broken = std::current_exception();  // for the next read
      }
      break;
    }
    filled += got;
  } while (filled < buffer.size() && input_waiting());
  return {Io::State::done, filled};
}

Io TlsStream::write(std::span<const std::byte> data) {
  if (state_->outgoing.size() + kRecord > kWriteBuffer) {
    if (const Io io = state_->push(); io.state != Io::State::done) return io;
  }
  const size_t wanted = std::min(data.size(), kRecord);
  ERR_clear_error();
  size_t taken = 0;
  const int result = SSL_write_ex(state_->ssl.get(), data.data(), wanted, &taken);
  return result == 1 ? Io{Io::State::done, taken} : state_->blocked(result, "TLS write");
}

Io TlsStream::flush() {
  return state_->push();
}

bool TlsStream::input_waiting() const {
  return SSL_has_pending(state_->ssl.get()) == 1;
}

void prepare_tls(Role role) {
  (void)context_of(role);
}

}  // namespace rfork::net
