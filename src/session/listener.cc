#include "session/listener.h"

#include <fmt/format.h>

#include <asio/ip/v6_only.hpp>

#include "base/error.h"

namespace rfork::session {

namespace {

using asio::ip::tcp;

tcp::endpoint endpoint_of(asio::io_context& context, const net::Address& address) {
  asio::error_code error;
  const auto number = asio::ip::make_address(address.host, error);
  if (!error) return {number, address.port};
  tcp::resolver resolver(context);
  const auto found = resolver.resolve(address.host, std::to_string(address.port),
                                      tcp::resolver::numeric_service, error);
  if (error || found.empty()) {
    throw Refusal(Failure::usage, fmt::format("--listen {}: {}", address.text(), error.message()));
  }
  return found.begin()->endpoint();
}

}  // namespace

tcp::acceptor listen_on(asio::io_context& context, const net::Address& address,
                        bool loopback_only) {
  const tcp::endpoint endpoint = endpoint_of(context, address);
  if (loopback_only && !endpoint.address().is_loopback()) {
    throw Refusal(
        Failure::usage,
        fmt::format("--listen {}: without a key only this host is served", address.text()),
        "--make-key FILE makes a key, --key FILE uses it");
  }
  tcp::acceptor acceptor(context);
  asio::error_code error;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error && endpoint.protocol() == tcp::v6()) {
    acceptor.set_option(asio::ip::v6_only(true), error);
  }
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    throw Refusal(Failure::usage, fmt::format("--listen {}: {}", address.text(), error.message()),
                  error == asio::error::address_in_use
                      ? "another rforkd may be running; choose another port"
                      : "");
  }
  return acceptor;
}

std::string text_of(const tcp::endpoint& endpoint) {
  return net::Address{endpoint.address().to_string(), endpoint.port()}.text();
}

}  // namespace rfork::session
