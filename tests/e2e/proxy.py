"""A TCP relay that counts, and cuts the connection after a given number of bytes in one direction."""

import socket
import threading


class Proxy:
    """Listens on `host` (None: this one) and relays to `to`. The first connection is cut after `up` bytes
    (client to server) or `down` bytes (back); later ones only if `again` is false, then at once."""

    def __init__(self, to, up=None, down=None, again=True, freeze=False):
        host, port = to.rsplit(":", 1)
        self.to = (host, int(port))
        self.limits = {"up": up, "down": down}
        self.again, self.freeze = again, freeze
        self.passed = {"up": 0, "down": 0}
        self.steps = {"up": [], "down": []}    # what had passed after each piece
        self.connections = 0
        self.ends = []
        self.closed = False  # to new connections, for the time being
        self.cut = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            first = self.connections == 1
            if self.closed or not first and not self.again:
                reset(client)
                continue
            try:
                server = socket.create_connection(self.to)
            except OSError:
                reset(client)
                continue
            self.ends += [client, server]
            for way, source, sink in (("up", client, server), ("down", server, client)):
                threading.Thread(target=self.relay, args=(way, source, sink, first), daemon=True).start()

    def relay(self, way, source, sink, first):
        limit = self.limits[way] if first else None
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                if limit is not None and self.passed[way] + len(data) >= limit:
                    data = data[:limit - self.passed[way]]
                    sink.sendall(data)
                    self.passed[way] += len(data)
                    self.cut.set()
                    if not self.freeze:
                        reset(source)
                        reset(sink)
                    return
                if first:
                    self.passed[way] += len(data)
                    self.steps[way].append(self.passed[way])
                sink.sendall(data)
        except OSError:
            for end in (source, sink):
                reset(end)

    def cut_all(self):
        """Breaks every connection that is open."""
        while self.ends:
            reset(self.ends.pop())

    def close(self):
        self.listener.close()

    def hang_up(self):
        """Frozen connections too."""
        self.close()
        self.cut_all()


def reset(end):
    """Closes with RST, as a host that went away would make it look."""
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()


class Listener:
    """Accepts and answers with `answer(connection)`."""

    def __init__(self, answer):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.answer = answer
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        try:
            self.answer(connection)
        except OSError:
            pass
        connection.close()
