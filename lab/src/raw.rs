//! Sockets of IP protocols that the kernel has no transport for: packets as they come behind the IP header.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

use crate::namespace::Namespace;

/// A raw socket of one IP protocol, on one address of a namespace.
#[derive(Debug)]
pub struct Raw {
    /// Sends and receives datagrams, of whatever protocol the socket is; its port means nothing.
    socket: UdpSocket,
    is_ipv6: bool,
}

impl Raw {
    /// Opens it; from here on the kernel does not answer that nobody here takes such packets.
    ///
    /// # Errors
    /// When the namespace does not have the address.
    pub fn open(namespace: &Namespace, protocol: u8, address: IpAddr) -> Result<Raw> {
        let at = SocketAddr::new(address, 0);
        let socket = namespace.enter(|| {
            let socket = Socket::new(Domain::for_address(at), Type::RAW, Some(i32::from(protocol).into()))?;
            socket.bind(&at.into())?;
            // A burst of fragmented answers is to be lost by nobody but the network.
            socket.set_recv_buffer_size(1 << 20)?;
            std::io::Result::Ok(socket)
        })?;
        let socket =
            socket.with_context(|| format!("{}: raw socket {protocol} on {address}", namespace.role()))?;
        Ok(Raw { socket: UdpSocket::from(std::os::fd::OwnedFd::from(socket)), is_ipv6: address.is_ipv6() })
    }

    /// Sends what stands behind the IP header; the kernel splits what is longer than the link takes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send(&self, to: IpAddr, packet: &[u8]) -> Result<()> {
        self.socket.send_to(packet, SocketAddr::new(to, 0)).with_context(|| format!("sending to {to}"))?;
        Ok(())
    }

    /// The next packet, put together, and who sent it; `None` when there is none within `limit`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn receive(&self, limit: Duration) -> Result<Option<(IpAddr, Vec<u8>)>> {
        self.socket.set_read_timeout(Some(limit))?;
        let mut buffer = vec![0; 65_536];
        let (len, from) = match self.socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) => return Err(error).context("reading from a raw socket"),
        };
        // IPv4's header comes with it.
        let header = if self.is_ipv6 { 0 } else { usize::from(buffer[0] & 15) * 4 };
        Ok(Some((from.ip(), buffer.get(header..len).unwrap_or_default().to_vec())))
    }
}

/// Answers each packet of an IP protocol with `<role> ` and what it got.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts it on an address of a namespace.
    ///
    /// # Errors
    /// As [`Raw::open`].
    pub fn start(namespace: &Namespace, protocol: u8, address: IpAddr) -> Result<Echo> {
        let raw = Raw::open(namespace, protocol, address)?;
        let role = namespace.role().to_owned();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name(format!("raw-{role}")).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(Some((from, packet))) = raw.receive(Duration::from_millis(10)) {
                    let _lost_like_any_packet = raw.send(from, &[role.as_bytes(), b" ", &packet].concat());
                }
            }
        })?;
        Ok(Echo { stop, thread: Some(thread) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
