//! The Linux twin: what the operator does to the TAPs with the tools that he knows, in our tables.
//!
//! Each port has a TAP of the same name in Linux (the data plane makes it). This module mirrors the kernel's links,
//! addresses, routes, rules and neighbours of the network namespace that we run in into [`Interfaces`],
//! [`Routes`] and [`Neighbours`]: [`Twin::view`] is what they are now, [`Twin::changed`] says when that changes. It also puts
//! the configured addresses on the twins, and has the kernel resolve next hops and keep them fresh.
//!
//! It works in a thread of its own, so that a routing daemon with a million routes does not hold up the API. What is
//! mirrored and what is not is in docs/twin.md.
//!
//! | file | does |
//! |---|---|
//! | `socket` | netlink: bytes ↔ messages |
//! | `links`, `rules`, `routes`, `nexthops`, `neighbours` | messages → own tables → tables of the workers |
//! | `mirror` | which message goes where, and what must be built anew for it |
//! | `losses` | what masqueraded connections have lost |
//! | `upkeep` | which neighbours are asked for, and when |
//! | `setup` | what we change in the kernel |
//! | `task` | the thread: bursts, dumps, views, requests |

mod links;
mod losses;
mod mirror;
mod neighbours;
mod nexthops;
mod routes;
mod rules;
mod setup;
mod socket;
mod task;
mod upkeep;

#[cfg(test)]
mod netns_tests;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use ipnet::IpNet;
use lb_core::ids::PortId;
use lb_core::tables::{InterfaceId, Interfaces, Neighbours, Routes};
use tokio::sync::{mpsc, oneshot, watch};

pub use losses::Loss;

use losses::Losses;
use task::{Command, Task};

/// Requests that wait for the thread; further questions for neighbours are dropped (and counted).
const COMMANDS_MAX: usize = 4096;

/// A port and its twin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TwinPort {
    /// Of the port in the config file, and of its TAP.
    pub name: String,
    pub id: PortId,
    pub outside: bool,
    /// Of the device: longest IP packet, bytes. A larger MTU of the twin does not make it take more.
    pub mtu: u16,
}

/// What Linux has now. The three belong together: routes and neighbours name interfaces by their place in `interfaces`.
#[derive(Clone, Debug, Default)]
pub struct TwinView {
    pub interfaces: Arc<Interfaces>,
    pub routes: Arc<Routes>,
    pub neighbours: Arc<Neighbours>,
}

#[derive(Debug, thiserror::Error)]
pub enum TwinError {
    #[error("port {port}: there is no interface {port} in this network namespace")]
    NoInterface { port: String },
    #[error("there is no port number {}", port.0)]
    NoSuchPort { port: PortId },
    #[error("port {port}: address {address}: {why}")]
    Address { port: String, address: IpNet, why: String },
    #[error("port {port}: cannot bring interface {port} up: {source}")]
    BringUp { port: String, source: io::Error },
    #[error("Linux twin: {what}: {source}")]
    Netlink { what: &'static str, source: io::Error },
    #[error("the Linux twin has stopped")]
    Stopped,
}

impl TwinError {
    fn address(port: &str, address: IpNet, error: &io::Error) -> TwinError {
        TwinError::Address { port: port.to_owned(), address, why: setup::why_refused(port, address, error) }
    }
}

/// A number that only grows.
#[derive(Default, Debug)]
pub struct Count(AtomicU64);

impl Count {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// What it was before.
    fn add(&self, n: u64) -> u64 {
        self.0.fetch_add(n, Ordering::Relaxed)
    }
}

/// What the twin has done since it was started.
#[derive(Default, Debug)]
pub struct TwinCounters {
    /// Messages of the kernel.
    pub events: Count,
    /// Messages that were not understood.
    pub unreadable: Count,
    /// Times that the kernel had more to say than it could keep for us; each is followed by a dump.
    pub overruns: Count,
    pub dumps: Count,
    pub interfaces_built: Count,
    pub routes_built: Count,
    pub neighbours_built: Count,
    /// Times that the kernel was asked to resolve or prove a neighbour.
    pub probes: Count,
    pub probes_failed: Count,
    /// Questions for neighbours that were known or asked for already.
    pub asks_repeated: Count,
    /// Questions that were too many.
    pub asks_refused: Count,
}

/// The handle. Dropping it ends the thread; addresses that were set stay on the twins.
#[derive(Debug)]
pub struct Twin {
    view: watch::Receiver<TwinView>,
    losses: Arc<Losses>,
    commands: Option<mpsc::Sender<Command>>,
    counters: Arc<TwinCounters>,
    thread: Option<JoinHandle<()>>,
}

impl Twin {
    /// Starts to mirror the network namespace of the calling thread; the first view is complete. `ports` in the order of
    /// the config file. Blocks for as long as reading all of the kernel's routes takes.
    ///
    /// # Errors
    /// A port whose interface is not there; netlink that does not work.
    pub fn start(ports: Vec<TwinPort>) -> Result<Twin, TwinError> {
        let (out, view) = watch::channel(TwinView::default());
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (started, start) = std::sync::mpsc::channel();
        let counters = Arc::new(TwinCounters::default());
        let task_counters = counters.clone();
        let losses = Arc::new(Losses::default());
        let task_losses = losses.clone();
        let run = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(source) => {
                    let _ = started.send(Err(TwinError::Netlink { what: "cannot start", source }));
                    return;
                }
            };
            runtime.block_on(async {
                match Task::new(ports, task::RECEIVE_BUFFER, task_counters, (out, task_losses)).await {
                    Ok(task) => {
                        let _ = started.send(Ok(()));
                        task.run(receiver).await;
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            });
        };
        let thread = std::thread::Builder::new()
            .name("twin".to_owned())
            .spawn(run)
            .map_err(|source| TwinError::Netlink { what: "cannot start a thread", source })?;
        start.recv().map_err(|_| TwinError::Stopped)??;
        Ok(Twin { view, losses, commands: Some(commands), counters, thread: Some(thread) })
    }

    /// What Linux has now.
    pub fn view(&self) -> TwinView {
        self.view.borrow().clone()
    }

    /// Says when [`view`](Twin::view) changes; works in any runtime.
    pub fn changed(&self) -> watch::Receiver<TwinView> {
        self.view.clone()
    }

    /// What Linux has now by `view`, and what masqueraded connections have lost by it since somebody asked last.
    pub fn news(&self, view: &mut watch::Receiver<TwinView>) -> (TwinView, Vec<Loss>) {
        // Both are written at once.
        let view = view.borrow_and_update();
        (view.clone(), self.losses.take())
    }

    pub fn counters(&self) -> &Arc<TwinCounters> {
        &self.counters
    }

    /// Brings the twin of `port` up and makes `addresses` those that we put on it: addresses of an earlier call that
    /// are not among them go, those that somebody else put there stay. All or nothing. The view shows it on return (IPv6 addresses once
    /// the twin has a carrier).
    ///
    /// # Errors
    /// The kernel's reason, and the address that it refused.
    pub async fn set_addresses(&self, port: PortId, addresses: &[IpNet]) -> Result<(), TwinError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::SetAddresses { port, addresses: addresses.to_vec(), reply };
        self.commands().send(command).await.map_err(|_| TwinError::Stopped)?;
        answer.await.map_err(|_| TwinError::Stopped)?
    }

    /// Has the kernel resolve a neighbour that the data plane wants to send to, and keeps it fresh from then on. Does
    /// not wait: the answer shows in the view. Repeated questions cost little.
    pub fn resolve(&self, interface: InterfaceId, address: IpAddr) {
        if self.commands().try_send(Command::Resolve(interface, address)).is_err() {
            self.counters.asks_refused.add(1);
        }
    }

    /// Names the hosts that the data plane sends to (the real servers): the neighbours that lead to them are resolved at
    /// once and kept fresh, also when routes change. Replaces those named before.
    pub async fn keep_resolved(&self, hosts: Vec<IpAddr>) -> Result<(), TwinError> {
        self.commands().send(Command::Keep(hosts)).await.map_err(|_| TwinError::Stopped)
    }

    fn commands(&self) -> &mpsc::Sender<Command> {
        self.commands.as_ref().expect("only drop takes it")
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}
