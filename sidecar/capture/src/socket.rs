//! A netlink socket to netfilter: sends requests, collects the kernel's answers, turns refusals into errors.

use std::io;
use std::time::Duration;

use netlink_sys::Socket as NetlinkSocket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{RecvFlags, SendFlags};

use crate::error::CaptureError;
use crate::wire::{Answer, answers};

/// The kernel answers within the call that asks; this only guards against a kernel that does not.
const DEADLINE: Duration = Duration::from_secs(10);
/// Room for a full set of rules in one message.
const SEND_BUFFER: usize = 1 << 20;
/// At least what the kernel puts into one piece of a dump.
const RECEIVE_BUFFER: usize = 64 << 10;

/// A socket that talks to the kernel's netfilter.
pub(crate) struct Socket {
    socket: NetlinkSocket,
    buffer: Vec<u8>,
}

/// An object of a dump: its message type and payload.
pub(crate) type Object = (u16, Vec<u8>);

/// What one request came to.
pub(crate) enum Outcome {
    /// All is well; the objects are those that were asked for.
    Objects(Vec<Object>),
    /// The data changed while it was being read: ask again.
    Interrupted,
    /// The kernel refused the request with this sequence number.
    Refused {
        sequence: u32,
        errno: Errno,
        explanation: Option<String>,
    },
}

impl Socket {
    /// Opens the socket in the current network namespace.
    pub(crate) fn open() -> Result<Self, CaptureError> {
        let doing = "opening a netlink socket to netfilter";
        let mut socket = NetlinkSocket::new(NETLINK_NETFILTER)
            .map_err(|error| CaptureError::io(doing, error))?;
        socket
            .bind_auto()
            .map_err(|error| CaptureError::io(doing, error))?;
        // Explanations (Linux 4.12) and short answers (4.3) are niceties: an older kernel does without.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        // Beyond the system's limit only with privilege over the whole machine; the limit itself is enough.
        if sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER);
        }
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(DEADLINE))
            .map_err(|errno| CaptureError::new(doing, errno, None))?;
        Ok(Self {
            socket,
            buffer: vec![0; RECEIVE_BUFFER],
        })
    }

    /// Sends messages and reads answers up to the acknowledgement of `last` or the end of its dump. A refusal ends it.
    pub(crate) fn request(
        &mut self,
        doing: &str,
        messages: &[u8],
        last: u32,
    ) -> Result<Outcome, CaptureError> {
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, messages, SendFlags::empty(), &kernel)
            .map_err(|errno| CaptureError::new(doing, errno, None))?;
        let mut objects = Vec::new();
        let mut interrupted = false;
        loop {
            let length = self.receive(doing)?;
            let datagram = &self.buffer[..length];
            let parsed = answers(datagram).map_err(|_| CaptureError::Answer {
                doing: doing.to_owned(),
                what: "the kernel's netlink answer is malformed",
            })?;
            for answer in parsed {
                match answer {
                    Answer::Object {
                        kind,
                        payload,
                        interrupted: changed,
                        ..
                    } => {
                        interrupted |= changed;
                        objects.push((kind, payload.to_vec()));
                    }
                    Answer::Done {
                        interrupted: changed,
                        ..
                    } if interrupted || changed => return Ok(Outcome::Interrupted),
                    Answer::Done { sequence, .. } | Answer::Ack { sequence }
                        if sequence == last =>
                    {
                        return Ok(Outcome::Objects(objects));
                    }
                    Answer::Done { .. } | Answer::Ack { .. } => {}
                    Answer::Failed {
                        sequence,
                        errno,
                        explanation,
                    } => {
                        return Ok(Outcome::Refused {
                            sequence,
                            errno: Errno::from_raw_os_error(errno),
                            explanation,
                        });
                    }
                }
            }
        }
    }

    /// Receives one datagram of the kernel into the buffer.
    fn receive(&mut self, doing: &str) -> Result<usize, CaptureError> {
        loop {
            let received =
                rustix::net::recvfrom(&self.socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC);
            let (_, length, sender) = match received {
                Ok(received) => received,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    let error = io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("the kernel did not answer within {DEADLINE:?}"),
                    );
                    return Err(CaptureError::io(doing, error));
                }
                // More refusals than the socket holds: the first ones, which are the ones to report, are there.
                Err(Errno::NOBUFS) => continue,
                Err(errno) => return Err(CaptureError::new(doing, errno, None)),
            };
            let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
            if sender.is_none_or(|sender| sender.pid() != 0) {
                continue;
            }
            if length > self.buffer.len() {
                return Err(CaptureError::Answer {
                    doing: doing.to_owned(),
                    what: "the kernel's netlink answer is longer than its protocol allows",
                });
            }
            return Ok(length);
        }
    }
}
