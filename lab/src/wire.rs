//! Frames as they are: sent to and taken from a link, past the kernel's own stack.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::namespace::Namespace;

/// The longest frame that is taken: a jumbo frame and room to spare.
const LONGEST: usize = 16384;

/// A packet socket on one link of a namespace.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    mac: [u8; 6],
}

impl Tap {
    /// Opens the link; from here on its frames, in and out, are kept for [`Tap::receive`].
    ///
    /// # Errors
    /// When there is no such link in the namespace.
    pub fn open(namespace: &Namespace, link: &str) -> Result<Tap> {
        namespace.enter(|| {
            let address = link_address(link).with_context(|| format!("{}: link {link}", namespace.role()))?;
            let socket =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
            bind(socket.as_raw_fd(), &address)?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(20))?;
            Ok(Tap { socket, mac: address.addr().unwrap_or_default() })
        })?
    }

    /// The link's own address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Puts a frame on the link, from its Ethernet header on.
    ///
    /// # Errors
    /// The kernel's; a frame shorter than an Ethernet header is refused by it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty())?;
        if sent != frame.len() {
            bail!("sent {sent} of {} bytes", frame.len());
        }
        Ok(())
    }

    /// The first frame for which `wanted` says yes, within `limit`; frames before it are dropped.
    ///
    /// # Errors
    /// The kernel's, or that none came.
    pub fn receive(
        &self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> Result<Vec<u8>> {
        let start = Instant::now();
        let mut buffer = vec![0; LONGEST];
        while start.elapsed() < limit {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) if wanted(&buffer[..length]) => return Ok(buffer[..length].to_vec()),
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error).context("reading from the packet socket"),
            }
        }
        bail!("{what}: no such frame within {} s", limit.as_secs_f32())
    }
}

/// The packet-socket address of a link of the current namespace.
fn link_address(link: &str) -> Option<LinkAddr> {
    getifaddrs()
        .ok()?
        .filter(|entry| entry.interface_name == link)
        .find_map(|entry| entry.address.as_ref().and_then(|address| address.as_link_addr().copied()))
}
