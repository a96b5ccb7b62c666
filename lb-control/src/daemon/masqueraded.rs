//! Connections that a rule masquerades end where their address or interface is lost, once the workers know that it is: what begins behind them
//! has another source.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use lb_core::path::{Deed, Order, Sought, SoughtKind};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::Handle;
use crate::plane::Plane;
use crate::twin::Loss;

/// Losses that the control task knows of.
#[derive(Default)]
pub(super) struct Lost {
    all: Mutex<Vec<Loss>>,
    is_more: Notify,
}

impl Lost {
    pub(super) fn add(&self, more: Vec<Loss>) {
        if !more.is_empty() {
            self.all.lock().unwrap_or_else(PoisonError::into_inner).extend(more);
            self.is_more.notify_one();
        }
    }

    fn take(&self) -> Vec<Loss> {
        std::mem::take(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Ends what ends by losses, until the daemon stops.
pub(super) async fn end_masqueraded(lost: Arc<Lost>, control: Handle, plane: Arc<dyn Plane>) {
    loop {
        lost.is_more.notified().await;
        // Answered when all workers go by what there is.
        let Ok(has_rules) = control.change(|control| control.has_rules()).await else { return };
        let losses = lost.take();
        if has_rules {
            let plane = plane.clone();
            // It fails when the daemon stops.
            let _ = tokio::task::spawn_blocking(move || end(&losses, &*plane)).await;
        }
    }
}

fn end(losses: &[Loss], plane: &dyn Plane) {
    let mut count = 0_u64;
    let sought = Sought { kind: SoughtKind::Connections, is_masqueraded: true, ..Sought::default() };
    let (mut of_interfaces, mut of_addresses) = (Vec::new(), HashMap::<IpAddr, Vec<&Loss>>::new());
    for loss in losses {
        match loss.address() {
            None => of_interfaces.push(loss),
            Some(address) => of_addresses.entry(address).or_default().push(loss),
        }
    }
    let done = plane.order_flows(&sought, &mut |flow| {
        let of_its = of_addresses.get(&flow.reply().dst).into_iter().flatten();
        if !of_its.chain(&of_interfaces).any(|loss| loss.ends(flow)) {
            return ControlFlow::Continue(None);
        }
        count += 1;
        ControlFlow::Continue(Some(Order { zones: flow.known.zones, deed: Deed::End }))
    });
    if let Err(why) = done {
        warn!(why, "not all masqueraded connections ended whose address or interface is gone");
    }
    if count > 0 {
        info!(connections = count, "masqueraded connections ended with their address or interface");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use lb_core::conntrack::Status;
    use lb_core::ids::PortId;
    use lb_core::path::Known;
    use lb_core::tables::{Interface, InterfaceId, Interfaces};

    use super::super::fake::FakePlane;
    use super::*;
    use crate::twin::TwinView;

    /// A loss of an interface with this address, of which routes say nothing.
    fn loss(interface: &str, address: Option<&str>) -> Loss {
        let wan = Interface {
            name: "wan".into(),
            port: PortId(0),
            vlan: 0,
            mac: [2; 6],
            mtu: 1500,
            outside: true,
            group: 0,
            ipv4: interface.parse().ok(),
            ipv6: None,
        };
        let before = TwinView { interfaces: Arc::new(Interfaces::new(vec![wan])), ..TwinView::default() };
        Loss::new(InterfaceId(0), address.map(|address| address.parse().expect(address)), before)
    }

    #[test]
    fn masqueraded_connections_end_by_what_they_lost_and_no_others() {
        let plane = FakePlane::new(1);
        plane.flows.store(4, Relaxed);
        let losses =
            [loss("11.0.0.1", Some("11.0.0.1")), loss("11.0.0.2", Some("11.0.0.9")), loss("11.0.0.3", None)];
        end(&losses, &*plane);
        assert!(plane.ended.lock().unwrap().is_empty(), "none is masqueraded");
        *plane.known.lock().unwrap() = Known { status: Status::MASQUERADED, ..Known::default() };
        end(&losses, &*plane);
        let ended: Vec<_> = plane.ended.lock().unwrap().iter().map(|tuple| tuple.src.to_string()).collect();
        assert_eq!(ended, ["11.0.0.1", "11.0.0.3"]);
    }

    #[test]
    fn losses_wait_until_they_are_taken() {
        let lost = Lost::default();
        lost.add(vec![loss("11.0.0.1", None)]);
        lost.add(vec![loss("11.0.0.1", None)]);
        assert_eq!((lost.take().len(), lost.take().len()), (2, 0));
    }
}
