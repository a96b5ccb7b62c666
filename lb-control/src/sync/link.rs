//! The multicast group as one socket, on one interface: both roles send to it and hear it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, netdevice, socket_with, sockopt};
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::{SyncState, Wanted};
use crate::api::types::SyncDaemon;

/// How long an interface that cannot be used is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often it is looked whether the interface is still the one that the group was opened on.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What may wait to be read: connections come in thousands when all are asked for.
const RECEIVE_BUFFER: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Link {
    socket: UdpSocket,
    group: SocketAddr,
    interface: String,
    index: u32,
    look_at: Instant,
}

impl Link {
    /// Opens the group; as long as that fails the state says why, and it is tried again.
    pub(super) async fn open(
        daemon: &SyncDaemon,
        wanted: &watch::Receiver<Wanted>,
        state: &SyncState,
    ) -> Link {
        loop {
            let size = wanted.borrow().tables.settings.sysctls.sync_sock_size;
            match Link::try_open(daemon, size) {
                Ok(link) => {
                    state.set_problem(daemon, None);
                    return link;
                }
                Err(error) => state.set_problem(daemon, Some(&error)),
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// `size`: bytes that may wait to be read, and to be sent; 0: what we choose, and the system's.
    pub(super) fn try_open(daemon: &SyncDaemon, size: u32) -> io::Result<Link> {
        let family = match daemon.group {
            IpAddr::V4(_) => AddressFamily::INET,
            IpAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(family, SocketType::DGRAM, flags, None)?;
        let interface = netdevice::name_to_index(&fd, &daemon.interface)?;
        // Both roles may run on one host.
        sockopt::set_socket_reuseaddr(&fd, true)?;
        // Without CAP_NET_ADMIN the forced size is refused, and net.core.rmem_max bounds the plain one.
        let receive = if size == 0 { RECEIVE_BUFFER } else { size as usize };
        if sockopt::set_socket_recv_buffer_size_force(&fd, receive).is_err() {
            sockopt::set_socket_recv_buffer_size(&fd, receive)?;
        }
        if size > 0 {
            sockopt::set_socket_send_buffer_size(&fd, size as usize)?;
        }
        // What one says is not for its own host, as with the kernel's.
        let group = match daemon.group {
            IpAddr::V4(group) => {
                sockopt::set_ip_multicast_loop(&fd, false)?;
                sockopt::set_ip_multicast_ttl(&fd, daemon.ttl.into())?;
                sockopt::set_ip_multicast_if_with_ifindex(&fd, &group, &Ipv4Addr::UNSPECIFIED, interface)?;
                sockopt::set_ip_add_membership_with_ifindex(&fd, &group, &Ipv4Addr::UNSPECIFIED, interface)?;
                SocketAddr::new(group.into(), daemon.port)
            }
            IpAddr::V6(group) => {
                sockopt::set_ipv6_multicast_loop(&fd, false)?;
                sockopt::set_ipv6_multicast_hops(&fd, daemon.ttl.into())?;
                sockopt::set_ipv6_multicast_if(&fd, interface)?;
                sockopt::set_ipv6_add_membership(&fd, &group, interface)?;
                SocketAddrV6::new(group, daemon.port, 0, interface).into()
            }
        };
        bind(&fd, &group)?;
        let socket = UdpSocket::from_std(fd.into())?;
        // What other interfaces bring for the same group is not ours.
        socket.bind_device(Some(daemon.interface.as_bytes()))?;
        let look_at = Instant::now() + LOOK_EVERY;
        Ok(Link { socket, group, interface: daemon.interface.clone(), index: interface, look_at })
    }

    /// Looks, when it is time, whether the interface is still the one that was opened. A membership ends with its device,
    /// and who waits to receive is not told.
    ///
    /// # Errors
    /// The interface is gone, or there is another one of its name.
    pub(super) fn check(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if now < self.look_at {
            return Ok(());
        }
        self.look_at = now + LOOK_EVERY;
        if netdevice::name_to_index(&self.socket, &self.interface)? != self.index {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the interface was made again"));
        }
        Ok(())
    }

    /// Hops that its multicast goes, and bytes of its receive and send buffers.
    #[cfg(test)]
    pub(super) fn options(&self) -> (u32, usize, usize) {
        let hops = match self.group {
            SocketAddr::V4(_) => sockopt::ip_multicast_ttl(&self.socket).expect("IP_MULTICAST_TTL"),
            SocketAddr::V6(_) => sockopt::ipv6_multicast_hops(&self.socket).expect("IPV6_MULTICAST_HOPS"),
        };
        let receives = sockopt::socket_recv_buffer_size(&self.socket).expect("SO_RCVBUF");
        (hops, receives, sockopt::socket_send_buffer_size(&self.socket).expect("SO_SNDBUF"))
    }

    pub(super) async fn send(&self, message: &[u8]) -> io::Result<()> {
        self.socket.send_to(message, self.group).await.map(drop)
    }

    /// Waits for the next datagram.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buffer).await
    }

    /// The next datagram, if there is one already.
    pub(super) fn try_receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.socket.try_recv(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Waits before a link that failed is opened again.
pub(super) async fn pause_after(daemon: &SyncDaemon, state: &SyncState, error: &io::Error) {
    state.set_problem(daemon, Some(error));
    tokio::time::sleep(RETRY_AFTER).await;
}
