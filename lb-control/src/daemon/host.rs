//! The Linux side of the ports: what the daemon wants of the twins, carried out one after the other.
//!
//! Only the newest wish counts, so that a burst of changes costs the kernel one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, timeout};
use tracing::{info, warn};

use lb_core::ids::PortId;
use lb_core::tables::Services;

use super::masqueraded::Lost;
use super::{Handle, Host};
use crate::compile::Network;
use crate::config::{Config, PortAddress};
use crate::plane::Plane;
use crate::twin::{Twin, TwinCounters, TwinError, TwinPort, TwinView};

/// How often the workers' questions for neighbours are collected, and how many at a time.
const ASK_EVERY: Duration = Duration::from_millis(2);
const ASKED_AT_ONCE: usize = 1024;
/// At most so often is what Linux says published.
const PUBLISH_EVERY: Duration = Duration::from_millis(5);

/// All that is wanted of the twins.
#[derive(Clone, Debug, Default)]
struct Wanted {
    /// By port.
    addresses: Vec<Vec<PortAddress>>,
    /// Of these the real servers' neighbours are kept.
    services: Arc<Services>,
}

/// How long the kernel is left alone after it refused addresses.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What the kernel refused last, by port, in words.
type Refusals = Arc<Mutex<BTreeMap<PortId, String>>>;

/// Passes wishes on to the twin's task.
pub(super) struct TwinHost {
    wanted: watch::Sender<Wanted>,
    refusals: Refusals,
    counters: Arc<TwinCounters>,
}

fn locked(refusals: &Refusals) -> MutexGuard<'_, BTreeMap<PortId, String>> {
    // Each change of it is whole.
    refusals.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host for TwinHost {
    fn set_addresses(&self, port: PortId, addresses: &[PortAddress]) {
        self.wanted.send_modify(|wanted| {
            if let Some(of_port) = wanted.addresses.get_mut(port.index()) {
                *of_port = addresses.to_vec();
            }
        });
    }

    fn keep_neighbours(&self, services: &Arc<Services>) {
        self.wanted.send_modify(|wanted| wanted.services = services.clone());
    }

    fn has_interface(&self, name: &str) -> bool {
        // Any socket will do to ask by.
        std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))
            .is_ok_and(|socket| rustix::net::netdevice::name_to_index(&socket, name).is_ok())
    }

    fn problems(&self) -> Vec<String> {
        locked(&self.refusals).values().cloned().collect()
    }

    fn counters(&self) -> &TwinCounters {
        &self.counters
    }
}

impl From<TwinView> for Network {
    fn from(view: TwinView) -> Network {
        Network { interfaces: view.interfaces, routes: view.routes, neighbours: view.neighbours }
    }
}

/// The ports in the words of the twin.
pub(super) fn twin_ports(config: &Config) -> Vec<TwinPort> {
    let port = |(index, port): (usize, &crate::config::Port)| TwinPort {
        name: port.name.clone(),
        id: PortId(index as u16),
        outside: port.outside,
        mtu: port.mtu,
    };
    config.ports.iter().enumerate().map(port).collect()
}

fn nets(addresses: &[PortAddress]) -> Vec<IpNet> {
    addresses.iter().filter_map(|a| IpNet::new(a.address, a.len).ok()).collect()
}

impl TwinHost {
    /// Brings the twins up with the config's addresses, then carries out what is wanted in a task of its own.
    ///
    /// # Errors
    /// The kernel's reason, and the port.
    pub(super) async fn start(twin: Arc<Twin>, config: &Config) -> Result<TwinHost, TwinError> {
        let mut addresses = Vec::new();
        for (index, port) in config.ports.iter().enumerate() {
            twin.set_addresses(PortId(index as u16), &nets(&port.addresses)).await?;
            addresses.push(port.addresses.clone());
        }
        let (wanted, receiver) = watch::channel(Wanted { addresses, services: Arc::default() });
        let (refusals, counters) = (Refusals::default(), twin.counters().clone());
        tokio::spawn(carry_out(twin, receiver, refusals.clone()));
        Ok(TwinHost { wanted, refusals, counters })
    }
}

async fn carry_out(twin: Arc<Twin>, mut wanted: watch::Receiver<Wanted>, refusals: Refusals) {
    let mut done = wanted.borrow_and_update().clone();
    loop {
        if locked(&refusals).is_empty() {
            if wanted.changed().await.is_err() {
                return;
            }
        } else if let Ok(Err(_)) = timeout(RETRY_AFTER, wanted.changed()).await {
            return;
        }
        let next = wanted.borrow_and_update().clone();
        for (index, (addresses, old)) in next.addresses.iter().zip(&mut done.addresses).enumerate() {
            let port = PortId(index as u16);
            if addresses == old {
                // Also when what was refused is not wanted any more.
                locked(&refusals).remove(&port);
                continue;
            }
            put(&twin, port, addresses, old, &refusals).await;
        }
        if !next.services.has_addresses_of(&done.services) {
            // A twin that has stopped is reported where its views are followed.
            let _ = twin.keep_resolved(next.services.server_addresses().collect()).await;
        }
        done.services = next.services;
    }
}

/// Puts addresses on a port's twin in the place of the `old` ones, or says once why not.
async fn put(
    twin: &Twin,
    port: PortId,
    addresses: &[PortAddress],
    old: &mut Vec<PortAddress>,
    refusals: &Refusals,
) {
    match twin.set_addresses(port, &nets(addresses)).await {
        Ok(()) => {
            info!(port = port.0, addresses = ?nets(addresses), "addresses are set");
            addresses.clone_into(old);
            locked(refusals).remove(&port);
        }
        Err(error) => {
            let said = error.to_string();
            if locked(refusals).insert(port, said.clone()).as_ref() != Some(&said) {
                warn!("{said}; it keeps the addresses that it had");
            }
        }
    }
}

/// Publishes what Linux says, at once and then not more often than every [`PUBLISH_EVERY`], until the twin ends; and what is lost by it.
pub(super) async fn follow(twin: Arc<Twin>, control: Handle, lost: Arc<Lost>) {
    let mut view = twin.changed();
    loop {
        let (now, losses) = twin.news(&mut view);
        let network = Network::from(now);
        if control.ask(move |control| control.use_network(&network)).await.is_err() {
            return;
        }
        lost.add(losses);
        tokio::time::sleep(PUBLISH_EVERY).await;
        if view.changed().await.is_err() {
            let problem = Some("the mirror of Linux's routes and neighbours has stopped".to_owned());
            let _ = control.ask(move |control| control.set_twin_problem(problem)).await;
            return;
        }
    }
}

/// Passes the workers' questions for neighbours on to Linux.
pub(super) async fn resolve(twin: Arc<Twin>, plane: Arc<dyn Plane>) {
    let mut interval = tokio::time::interval(ASK_EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        for (interface, address) in std::iter::from_fn(|| plane.next_question()).take(ASKED_AT_ONCE) {
            twin.resolve(interface, address);
        }
    }
}
