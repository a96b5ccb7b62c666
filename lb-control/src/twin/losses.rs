//! What masqueraded connections have lost: an address that is no longer on its interface, an interface that went down or away. In the kernel
//! those that had it end at once.
//!
//! Which interface a connection left by says the route that there was to its destination when the interface had what it lost; where that says
//! nothing, its source address does.
//!
//! Source of the facts: Linux, `net/netfilter/nf_nat_masquerade.c`.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lb_core::conntrack::Status;
use lb_core::path::FlowView;
use lb_core::tables::{InterfaceId, Route};

use super::TwinView;

/// Losses that wait to be heard of; those that are more are left out.
pub(super) const LOSSES_MAX: usize = 1 << 16;

#[derive(Clone, Debug)]
pub struct Loss {
    /// Of `before`.
    pub(super) interface: InterfaceId,
    /// `None`: the interface is down, or gone.
    pub(super) address: Option<IpAddr>,
    pub(super) before: TwinView,
}

impl Loss {
    #[cfg(test)]
    pub(crate) fn new(interface: InterfaceId, address: Option<IpAddr>, before: TwinView) -> Loss {
        Loss { interface, address, before }
    }

    /// `None`: the interface is lost.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Whether a connection ends by it.
    pub fn ends(&self, flow: &FlowView) -> bool {
        let reply = flow.reply();
        flow.known.status.has(Status::MASQUERADED)
            && self.address.is_none_or(|address| address == reply.dst)
            && match self.before.routes.lookup(reply.src) {
                Some(Route::Via { interface, .. }) => interface == self.interface,
                _ => self.before.interfaces.own().has(self.interface, reply.dst),
            }
    }
}

/// Those that nobody has heard of, in order.
#[derive(Default, Debug)]
pub(super) struct Losses(Mutex<Vec<Loss>>);

impl Losses {
    /// How many found no room.
    pub(super) fn add(&self, more: impl IntoIterator<Item = Loss>) -> usize {
        let mut all = self.locked();
        let mut more = more.into_iter();
        let room = LOSSES_MAX - all.len();
        all.extend(more.by_ref().take(room));
        more.count()
    }

    pub(super) fn take(&self) -> Vec<Loss> {
        std::mem::take(&mut self.locked())
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Loss>> {
        // Each change of it is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lb_core::ids::{PortId, ServerId};
    use lb_core::path::Known;
    use lb_core::tables::{Interface, Interfaces, Prefix, Protocol, Routes};
    use lb_core::time::Timeout;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn before() -> TwinView {
        let interface = |name: &str, port, address: &str| Interface {
            name: name.to_owned(),
            port: PortId(port),
            vlan: 0,
            mac: [2; 6],
            mtu: 1500,
            outside: false,
            group: 0,
            ipv4: address.parse().ok(),
            ipv6: None,
        };
        let interfaces = vec![interface("wan", 0, "192.0.2.1"), interface("lan", 1, "10.0.0.1")];
        let via = |n| Route::Via { interface: InterfaceId(n), gateway: None };
        let routes = [("0.0.0.0", 0, via(0)), ("10.0.0.0", 24, via(1)), ("172.16.0.0", 12, Route::Linux)];
        let routes = routes.map(|(address, len, route)| (Prefix { address: ip(address), len }, route));
        TwinView {
            interfaces: Arc::new(Interfaces::new(interfaces)),
            routes: Arc::new(Routes::new(routes)),
            ..TwinView::default()
        }
    }

    /// From an inner host to `to`, as `source`.
    fn flow(to: &str, source: &str, status: Status) -> FlowView {
        FlowView {
            is_template: false,
            is_tracked: true,
            known: Known { status, ..Known::default() },
            protocol: Protocol::UDP,
            client: (ip("10.0.0.7"), 4000),
            call: None,
            virtual_: (ip(to), 53),
            server: (ip(to), 53),
            local: Some((ip(source), 4000)),
            server_id: ServerId::NONE,
            method: lb_core::flow::Method::Masq,
            state: "NONE",
            expires_in: Timeout::from_secs(30),
        }
    }

    #[test]
    fn a_connection_ends_by_the_loss_of_its_address_on_its_interface_or_of_the_interface() {
        let loss = |interface, address: Option<&str>| Loss {
            interface: InterfaceId(interface),
            address: address.map(ip),
            before: before(),
        };
        let ends = |loss: Loss, to, source| loss.ends(&flow(to, source, Status::MASQUERADED));
        assert!(ends(loss(0, Some("192.0.2.1")), "198.51.100.7", "192.0.2.1"));
        assert!(!ends(loss(0, Some("192.0.2.2")), "198.51.100.7", "192.0.2.1"), "it has another address");
        assert!(!ends(loss(1, Some("192.0.2.1")), "198.51.100.7", "192.0.2.1"), "of another interface");
        assert!(ends(loss(0, None), "198.51.100.7", "203.0.113.9"), "it left by it, whatever its source");
        assert!(!ends(loss(0, None), "10.0.0.9", "192.0.2.1"), "its source is of it, and it left by another");
        assert!(ends(loss(0, None), "172.16.0.9", "192.0.2.1"), "the route does not say");
        assert!(!ends(loss(1, None), "172.16.0.9", "192.0.2.1"));
        assert!(!loss(0, None).ends(&flow("198.51.100.7", "192.0.2.1", Status::SRC_NAT)), "SNAT");
    }

    #[test]
    fn so_many_losses_wait_and_no_more() {
        let losses = Losses::default();
        let loss = Loss { interface: InterfaceId(0), address: None, before: TwinView::default() };
        assert_eq!(losses.add(vec![loss.clone(); LOSSES_MAX - 1]), 0);
        assert_eq!(losses.add(vec![loss; 3]), 2);
        assert_eq!((losses.take().len(), losses.take().len()), (LOSSES_MAX, 0));
    }
}
