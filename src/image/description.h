// Open file descriptions, and the kernel's objects behind them, as plain data: see model.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/io.h"

namespace rfork::image {

/// An advisory lock on a file, or a lease: fcntl_locking(2), flock(2), fcntl(2).
struct FileLock {
  enum class Kind : uint8_t {
    posix,        ///< F_SETLK: the process's, through whatever description it was made
    description,  ///< F_OFD_SETLK
    flock,        ///< the description's, on the whole file
    lease,        ///< F_SETLEASE: the description's, on the whole file
  };
  Kind kind = Kind::posix;
  bool exclusive = false;  ///< F_WRLCK, LOCK_EX
  uint64_t start = 0;      ///< first byte
  uint64_t size = 0;       ///< bytes; 0: as far as the file may grow
};

/// What an epoll(7) instance waits for.
struct EpollWatch {
  int32_t fd = 0;       ///< as the process numbers it
  uint32_t events = 0;  ///< EPOLL*; without an event: a one-shot watch that has fired
  uint64_t data = 0;
};

/// A timerfd_create(2).
struct FileTimer {
  int32_t clock = 0;     ///< CLOCK_*
  int32_t flags = 0;     ///< TFD_TIMER_* as it was set
  int64_t value_ns = 0;  ///< time left; 0: disarmed
  int64_t interval_ns = 0;
  uint64_t ticks = 0;  ///< expirations that nobody has read
};

/// A watch of an inotify(7) instance.
struct InotifyWatch {
  int32_t wd = 0;              ///< watch descriptor: what events and the process name it by
  uint32_t mask = 0;           ///< IN_*, as inotify_add_watch(2) is to be given it
  std::string path;            ///< a name that leads to what is watched
  uint64_t inode = 0;          ///< what it led to; comparable only under the same boot id
  int64_t change_time_ns = 0;  ///< its st_ctim at the capture
  /// What is watched is a deleted file whose contents travel.
  std::optional<uint32_t> object;
};

/// A mark of a fanotify(7) group.
struct FanotifyMark {
  /// FAN_MARK_*, as fanotify_mark(2) is to be given them: what is marked and how it is found; of
  /// what is ignored: how.
  uint32_t flags = 0;
  uint64_t mask = 0;     ///< FAN_*, what is reported; 0: only `ignored` counts
  uint64_t ignored = 0;  ///< what isn't
  std::string path;      ///< a name that leads to what is marked; of mounts where it is mounted
  uint64_t inode = 0;    ///< what it led to; comparable only under the same boot id
  int64_t change_time_ns = 0;  ///< its st_ctim at the capture
  /// What is marked is a deleted file whose contents travel.
  std::optional<uint32_t> object;
};

/// A fanotify(7) group.
struct FanotifyGroup {
  uint32_t flags = 0, event_flags = 0;  ///< fanotify_init(2)
  std::vector<FanotifyMark> marks;
};

/// An option of a socket, by the name that the man pages give it (socket_options.h).
struct SocketOption {
  std::string name;
  Bytes value;  ///< as getsockopt(2) gives it
};

/// What can be received from a socket as one message; of a stream, as many bytes as there are.
struct SocketMessage {
  Bytes data;
  Bytes from;                          ///< struct sockaddr of the sender; empty: none is told
  Bytes credentials;                   ///< struct ucred of the sender; empty: none is told
  std::vector<uint32_t> descriptions;  ///< on their way in it (SCM_RIGHTS)
};

/// A group whose messages a socket receives.
struct SocketMembership {
  std::string interface;
  Bytes group;                 ///< struct sockaddr; of a packet socket the link-layer address
  int32_t type = 0;            ///< of a packet socket: PACKET_MR_*
  bool exclude = true;         ///< all senders but `sources`; else only those
  std::vector<Bytes> sources;  ///< struct sockaddr each
};

/// What TCP_REPAIR tells of a connection to elsewhere, and makes another socket of.
struct TcpConnection {
  uint32_t send_start = 0;      ///< sequence number of the first byte of `sent`
  uint32_t receive_start = 0;   ///< of the first one of `received`
  uint32_t segment_size = 536;  ///< the largest that the other end takes (TCP_MAXSEG)
  bool selective = false;       ///< both ends may acknowledge selectively (TCPI_OPT_SACK)
  bool timestamps = false;      ///< TCPI_OPT_TIMESTAMPS
  bool scaling = false;         ///< TCPI_OPT_WSCALE
  uint32_t send_scale = 0, receive_scale = 0;  ///< bits that the windows are shifted by
  uint32_t timestamp = 0;                      ///< TCP_TIMESTAMP
  /// TCP_REPAIR_WINDOW: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup.
  uint32_t window_update = 0, send_window = 0, largest_window = 0;
  uint32_t receive_window = 0, receive_update = 0;
  Bytes sent;      ///< and not acknowledged
  Bytes not_sent;  ///< behind those: written by the program only
  Bytes received;  ///< and not read
};

/// A socket of any family.
struct Socket {
  int32_t family = 1, type = 1, protocol = 0;  ///< socket(2)
  Bytes name;             ///< getsockname(2), a struct sockaddr; empty: not bound
  Bytes peer;             ///< getpeername(2); empty: not connected
  std::string interface;  ///< that the index in `name` means
  bool listening = false;
  int32_t backlog = 0;
  std::vector<uint32_t> pending;  ///< descriptions whose connections to it wait to be accepted
  /// Of a unix socket bound to a path: whether that still leads to it, and its file's owner and
  /// permissions.
  bool has_path = false;
  uint32_t mode = 0, uid = 0, gid = 0;
  bool peer_gone = false;  ///< connected to one that is no more
  bool error = false;      ///< has an error that nobody has asked for (SO_ERROR)
  /// Of a unix or TCP socket: to `Description::other`, or to one that is gone. Where that other one
  /// listens, it has not accepted the connection.
  bool connected = false;
  std::vector<SocketOption> options;
  std::vector<SocketMessage> messages;
  std::vector<SocketMembership> memberships;
  std::vector<uint32_t> groups;  ///< of a netlink socket
  Bytes filter;                  ///< struct sock_filter[]; empty: none
  uint64_t left = 0;             ///< bytes of memory that is queued and doesn't travel (of packets)
  uint64_t cookie = 0;           ///< SO_COOKIE: one number for one socket of a running kernel
  /// A TCP connection to elsewhere, of which nothing is carried: the child has this very socket.
  bool kept = false;
  /// Of one that is `kept`, where its address moves to another host: the child has a new socket.
  std::optional<TcpConnection> tcp;
};

/// An end of a pseudo-terminal, pty(7), whose both ends are the process's own. Modes and size are
/// `Description::terminal_modes` and `window_size` of the master.
struct PseudoTerminal {
  uint32_t number = 0;  ///< of /dev/pts; of both ends
  bool master = false;
  bool locked = false;       ///< TIOCGPTLCK, of the master
  bool packet_mode = false;  ///< TIOCPKT, of the master
  bool exclusive = false;    ///< TIOCEXCL, of this end
  bool controlling = false;  ///< of the slave: of the process's session
  int32_t discipline = 0;    ///< TIOCGETD, of the slave
};

/// An open file description: what several descriptors may share.
struct Description {
  enum class Kind : uint8_t {
    regular,    ///< `file`; where the image carries its contents an Object of kind file names the
                ///< same File
    directory,  ///< reopened by path
    device,     ///< a character device without state (null, zero, full, random, urandom, tty):
                ///< reopened
    contents,   ///< `object`: a deleted file or memfd
    stdio,      ///< a pipe, socket or terminal on 0, 1 or 2: empty, log or the foreground's own
    relay,      ///< a pipe, socket or terminal whose other end stays at the origin: what is written
                ///< and read there goes through a ghost
    eventfd,    ///< `count`, `semaphore`
    signalfd,   ///< `signal_mask`
    timerfd,    ///< `timer`
    epoll,      ///< `watches`; `count` 1: it had nothing to tell, 0: it had, or that isn't known
    pipe,       ///< an end of a pipe whose other end is the process's too: `other`
    socket,     ///< `socket`; of two unix sockets that are both the process's and connected:
                ///< `other`
    inotify,    ///< `inotify`
    fifo,       ///< an end of a FIFO that only the process has open: `other`, `mode`, `removed`
    kernel_file,      ///< a file or directory of /proc or /sys: the child opens its own
    path,             ///< opened with O_PATH, no regular file or directory: `mode`, `removed`
    pidfd,            ///< of the process itself; with PIDFD_THREAD in `flags` of its leader
    pseudo_terminal,  ///< an end of one that only the process has open: `terminal`, `other`
    fanotify,         ///< `fanotify`
  };
  /// What a relayed description is.
  enum class RelayType : uint8_t {
    reader,    ///< reading end of a pipe
    writer,    ///< writing end of a pipe
    socket,    ///< connected stream socket
    terminal,  ///< terminal
  };
  uint32_t id = 0;
  Kind kind = Kind::regular;
  std::string path;   ///< as readlink of /proc/PID/fd/N says, without " (deleted)"
  int32_t flags = 0;  ///< fcntl(F_GETFL): access mode and status flags
  int64_t offset = 0;
  std::optional<uint32_t> file;
  std::optional<uint32_t> object;
  std::vector<FileLock> locks;
  RelayType relay = RelayType::reader;  ///< of kind relay
  Bytes terminal_modes;                 ///< struct termios2 of a relayed terminal
  Bytes window_size;                    ///< its struct winsize
  uint64_t count = 0;  ///< of a FIFO 1: a reading end, to which nobody has written yet
  bool semaphore = false;
  uint64_t signal_mask = 0;
  FileTimer timer;
  std::vector<EpollWatch> watches;
  /// Of a pipe: the description that has what is in it. Of a unix or TCP socket: the one that it is
  /// connected to; 0: none of the process's. Of a pseudo-terminal: its master. Of a relayed
  /// terminal: the first one of the same terminal; 0: itself.
  uint32_t other = 0;
  uint64_t capacity = 0;  ///< of a pipe, bytes: F_GETPIPE_SZ; of a socket: SO_RCVBUF as it is read
  std::vector<Bytes> queued;  ///< what can be read: of packet mode one each; where a link leads
  int32_t owner_type = 0;     ///< F_SETOWN_EX: F_OWNER_*
  int32_t owner = 0;          ///< who gets the signals of O_ASYNC; 0: nobody
  int32_t owner_signal = 0;   ///< F_SETSIG
  /// What an inotify instance watches, by wd. `count` is the bytes of events that nobody has read.
  std::vector<InotifyWatch> inotify;
  std::optional<FanotifyGroup> fanotify;  ///< `count` as of inotify
  uint32_t mode = 0;                      ///< st_mode
  /// Of FIFO, directory, link: its name is gone. Of a pseudo-terminal's master: no slave is open.
  bool removed = false;
  int32_t shut = 0;  ///< of a socket: 1 it reads no more, 2 it writes no more
  /// Of a relayed one: what the child's end is like. None in an image of old: then one of a pair of
  /// stream sockets, with what is `queued`.
  std::optional<Socket> socket;
  std::optional<PseudoTerminal> terminal;
};

struct Descriptor {
  int32_t fd = 0;
  uint32_t description = 0;
  bool close_on_exec = false;
};

}  // namespace rfork::image
