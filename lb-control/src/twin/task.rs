//! The twin's own thread: hears the kernel, keeps the mirror, builds tables, publishes views, carries out requests.
//!
//! A burst of changes makes one build: interfaces and neighbours wait [`QUIET`] from the first change, routes until nothing
//! came for [`ROUTES_QUIET`], at most [`ROUTES_WAIT_MAX`]; and after a build of routes the next one waits a multiple of the time
//! that it took, so that a routing daemon that fills a big table does not make us do nothing else.

mod dumps;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;
use lb_core::ids::PortId;
use lb_core::tables::{InterfaceId, Route};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use super::links::{IfIndex, Indices, Lost};
use super::losses::{LOSSES_MAX, Loss, Losses};
use super::mirror::{Mirror, Todo};
use super::neighbours::Key;
use super::routes::Ways;
use super::setup;
use super::socket::{Message, Received, Socket};
use super::upkeep::{Asked, Due, Upkeep};
use super::{TwinCounters, TwinError, TwinPort, TwinView};

/// Bytes of events that the kernel may hold for us: a full table's worth of route changes at the pace of a routing daemon
/// while one build runs. Taken from the kernel only when needed.
pub(super) const RECEIVE_BUFFER: usize = 32 << 20;

const QUIET: Duration = Duration::from_millis(2);
const ROUTES_QUIET: Duration = Duration::from_millis(5);
const ROUTES_WAIT_MAX: Duration = Duration::from_millis(200);
/// A build or dump of routes is followed by at least this many times its own duration without one.
const ROUTES_REST: u32 = 4;
/// Two dumps are at least this far apart.
const DUMP_INTERVAL: Duration = Duration::from_millis(200);
/// After an error of the socket.
const DUMP_RETRY: Duration = Duration::from_secs(1);
/// Datagrams of events that are read before anything else is looked at.
const DATAGRAMS_AT_ONCE: usize = 256;
/// Datagrams that may have waited for us: more than [`RECEIVE_BUFFER`] holds.
const DATAGRAMS_WAITING: usize = 1 << 17;

/// Longest wait for the kernel to finish with an address, in milliseconds.
const LOCAL_WAIT_MS: u32 = 200;

/// What the handle asks of the thread.
pub(super) enum Command {
    SetAddresses { port: PortId, addresses: Vec<IpNet>, reply: oneshot::Sender<Result<(), TwinError>> },
    Resolve(InterfaceId, IpAddr),
    Keep(Vec<IpAddr>),
}

/// Whether changed routes may wait for further ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Routes {
    WhenQuiet,
    AtOnce,
}

pub(super) struct Task {
    ports: Vec<TwinPort>,
    requests: Socket,
    events: Socket,
    mirror: Mirror,
    todo: Todo,
    upkeep: Upkeep,
    /// Of the published view.
    indices: Indices,
    view: TwinView,
    out: watch::Sender<TwinView>,
    /// Those that are published, and those that wait until the routes are without what was lost.
    losses: Arc<Losses>,
    losses_waiting: Vec<Loss>,
    counters: Arc<TwinCounters>,
    gateways: HashSet<Key>,
    /// What routes say of the length of packets.
    mtus: Vec<(InterfaceId, u16)>,
    hosts: Vec<IpAddr>,
    /// What we put on each twin.
    configured: HashMap<PortId, Vec<IpNet>>,
    /// Rules that the log has named already.
    named_rules: HashSet<String>,
    /// First change of interfaces or neighbours that is not published.
    changed_at: Option<Instant>,
    /// First and last change of routes that is not published.
    routes_changed_at: Option<(Instant, Instant)>,
    routes_not_before: Instant,
    dump_not_before: Instant,
}

impl Task {
    /// Opens the sockets, settles the twins and reads all that the kernel has.
    ///
    /// # Errors
    /// A port without its interface; netlink that does not work.
    pub(super) async fn new(
        ports: Vec<TwinPort>,
        receive_buffer: usize,
        counters: Arc<TwinCounters>,
        (out, losses): (watch::Sender<TwinView>, Arc<Losses>),
    ) -> Result<Task, TwinError> {
        let netlink = |source| TwinError::Netlink { what: "cannot open a netlink socket", source };
        let now = Instant::now();
        let mut task = Task {
            ports,
            requests: Socket::for_requests().map_err(netlink)?,
            events: Socket::for_events(receive_buffer).map_err(netlink)?,
            mirror: Mirror::default(),
            todo: Todo::default(),
            upkeep: Upkeep::new(now),
            indices: Indices::default(),
            view: TwinView::default(),
            out,
            losses,
            losses_waiting: Vec::new(),
            counters,
            gateways: HashSet::new(),
            mtus: Vec::new(),
            hosts: Vec::new(),
            configured: HashMap::new(),
            named_rules: HashSet::new(),
            changed_at: None,
            routes_changed_at: None,
            routes_not_before: now,
            dump_not_before: now,
        };
        task.dump_all()
            .await
            .map_err(|source| TwinError::Netlink { what: "cannot read the kernel's tables", source })?;
        for port in &task.ports {
            let Some(index) = task.mirror.links.index_of(&port.name) else {
                return Err(TwinError::NoInterface { port: port.name.clone() });
            };
            // A twin that stayed over a restart has what the config said then.
            task.configured.insert(port.id, task.mirror.links.ours(index));
            setup::settle(&port.name);
        }
        task.publish(Routes::AtOnce).await;
        Ok(task)
    }

    /// Runs until the handle is gone.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let wake = self.wake();
            tokio::select! {
                received = self.events.recv() => {
                    let is_broken = received.is_err();
                    self.hear(received);
                    if is_broken {
                        tokio::time::sleep(DUMP_RETRY).await;
                    }
                }
                command = commands.recv() => match command {
                    Some(command) => self.carry_out(command).await,
                    None => return,
                },
                () = sleep_until(wake) => {}
            }
            self.turn().await;
        }
    }

    /// Everything that is due now.
    pub(super) async fn turn(&mut self) {
        self.drain(DATAGRAMS_AT_ONCE);
        if self.wants_dump() && Instant::now() >= self.dump_not_before {
            self.dump_due().await;
        }
        if self.publish_at().is_some_and(|at| at <= Instant::now()) {
            self.publish(Routes::WhenQuiet).await;
        }
        let neighbours = &self.mirror.neighbours;
        for due in self.upkeep.due(|key| neighbours.state(key), Instant::now()) {
            match due {
                Due::Probe(key) => self.probe(key).await,
                Due::Forget(key) => {
                    if self.mirror.neighbours.forget_failure(key) {
                        self.note(Todo { build_neighbours: true, ..Todo::default() });
                    }
                }
            }
        }
    }

    /// When [`turn`](Task::turn) has something to do, if nothing is heard before.
    fn wake(&self) -> Option<Instant> {
        let dump_at = self.wants_dump().then_some(self.dump_not_before);
        [self.publish_at(), dump_at, self.upkeep.next()].into_iter().flatten().min()
    }

    fn wants_dump(&self) -> bool {
        self.todo.dump_all || self.todo.dump_routes || self.todo.dump_rules
    }

    /// When the changes that wait are to be published.
    fn publish_at(&self) -> Option<Instant> {
        let others = self.changed_at.map(|at| at + QUIET);
        let has_only_losses = !self.losses_waiting.is_empty() && others.is_none() && self.is_settled();
        let losses_at = has_only_losses.then(Instant::now);
        others.into_iter().chain(self.routes_at()).chain(losses_at).min()
    }

    /// Whether routes are as the kernel has them, as far as that is heard.
    fn is_settled(&self) -> bool {
        !self.todo.build_routes && !self.wants_dump()
    }

    fn routes_at(&self) -> Option<Instant> {
        let (first, last) = self.routes_changed_at?;
        Some((last + ROUTES_QUIET).min(first + ROUTES_WAIT_MAX).max(self.routes_not_before))
    }

    /// Reads events that are there already, `limit` datagrams at most.
    fn drain(&mut self, limit: usize) {
        for _ in 0..limit {
            match self.events.try_recv() {
                Ok(None) => return,
                Ok(Some(received)) => self.hear(Ok(received)),
                Err(error) => return self.hear(Err(error)),
            }
        }
    }

    fn hear(&mut self, received: io::Result<Received>) {
        match received {
            Ok(Received::Messages(messages)) => messages.into_iter().for_each(|message| self.apply(message)),
            Ok(Received::Overrun) => {
                self.counters.overruns.add(1);
                self.todo.dump_all = true;
            }
            Err(error) => {
                error!(%error, "netlink socket of the Linux twin");
                self.todo.dump_all = true;
                self.dump_not_before = Instant::now() + DUMP_RETRY;
            }
        }
    }

    fn apply(&mut self, message: Message) {
        self.counters.events.add(1);
        let applied = self.mirror.apply(message);
        let lost = self.mirror.links.take_lost();
        self.note_losses(lost);
        if let Some(why) = applied.unreadable {
            self.unreadable(&why);
        }
        let mut todo = applied.todo;
        // A neighbour on a link that is not (yet) ours is no news for the workers.
        todo.build_neighbours &=
            applied.neighbour.is_some_and(|change| self.indices.id(change.key.0).is_some());
        self.note(todo);
        if let Some(change) = applied.neighbour
            && self.upkeep.on_state(change.key, change.state, Instant::now())
        {
            // A probe needs the kernel's answer: it is sent by the next turn.
            self.upkeep.soon(change.key, Instant::now());
        }
    }

    /// Of interfaces that are not ours nothing is lost.
    fn note_losses(&mut self, lost: Vec<Lost>) {
        for (index, address) in lost {
            let Some(interface) = self.indices.id(index) else { continue };
            if self.losses_waiting.len() == LOSSES_MAX {
                return;
            }
            self.losses_waiting.push(Loss { interface, address, before: self.view.clone() });
        }
    }

    fn unreadable(&self, why: &str) {
        if self.counters.unreadable.add(1) == 0 {
            warn!(why, "a message of the kernel is not understood; further ones are only counted");
        }
    }

    fn note(&mut self, todo: Todo) {
        let now = Instant::now();
        self.todo.merge(todo);
        if todo.build_interfaces || todo.build_neighbours {
            self.changed_at.get_or_insert(now);
        }
        if todo.build_routes {
            self.routes_changed_at = Some((self.routes_changed_at.map_or(now, |(first, _)| first), now));
        }
    }

    // ---- views ----

    /// Builds what changed and publishes it.
    pub(super) async fn publish(&mut self, routes: Routes) {
        let todo = self.todo;
        let (mut all, mut has_changed) = (false, false);
        if todo.build_interfaces {
            self.counters.interfaces_built.add(1);
            let (interfaces, indices) = self.mirror.links.interfaces(&self.ports);
            // Routes and neighbours name interfaces by their place in the list.
            all = indices != self.indices;
            // Links that are not ours come and go.
            has_changed = all || interfaces != *self.view.interfaces;
            if has_changed {
                self.say_what_changed(&interfaces);
                self.indices = indices;
                self.view.interfaces = Arc::new(interfaces);
            }
        }
        let (interfaces_changed, mut mtus_changed) = (has_changed, false);
        let start = Instant::now();
        let routes_due = routes == Routes::AtOnce || self.routes_at().is_some_and(|at| at <= start);
        let routes_built = all || (todo.build_routes && routes_due);
        if routes_built {
            self.counters.routes_built.add(1);
            let Mirror { nexthops, links, .. } = &self.mirror;
            let ways = Ways { indices: &self.indices, nexthops, links };
            let built = self.mirror.routes.build(&self.mirror.rules, ways);
            self.view.routes = Arc::new(built.routes);
            self.gateways = built.gateways;
            for rule in built.not_followed {
                if self.named_rules.insert(rule.clone()) {
                    warn!(rule, "its routes are left out of the mirror, but for local ones");
                }
            }
            mtus_changed = self.mtus != built.mtus;
            self.mtus = built.mtus;
            self.routes_not_before = Instant::now() + start.elapsed() * ROUTES_REST;
            self.routes_changed_at = None;
            self.todo.build_routes = false;
            has_changed = true;
        }
        // A next hop holds the MAC address of its interface, and its MTU or a route's.
        if interfaces_changed || mtus_changed || todo.build_neighbours {
            self.counters.neighbours_built.add(1);
            self.view.neighbours =
                Arc::new(self.mirror.neighbours.build(&self.view.interfaces, &self.indices, &self.mtus));
            has_changed = true;
        }
        self.todo.build_interfaces = false;
        self.todo.build_neighbours = false;
        self.changed_at = None;
        let losses = if self.is_settled() { std::mem::take(&mut self.losses_waiting) } else { Vec::new() };
        if has_changed || !losses.is_empty() {
            let mut left_out = 0;
            self.out.send_modify(|view| {
                view.clone_from(&self.view);
                left_out = self.losses.add(losses);
            });
            if left_out > 0 {
                warn!(
                    count = left_out,
                    "addresses went too fast: masqueraded connections that had them go on"
                );
            }
        }
        if routes_built {
            self.keep_neighbours().await;
        }
    }

    fn say_what_changed(&self, new: &lb_core::tables::Interfaces) {
        let old = &self.view.interfaces;
        let has = |list: &lb_core::tables::Interfaces, name: &str| list.iter().any(|(_, i)| i.name == name);
        for (_, interface) in new.iter().filter(|(_, i)| !has(old, &i.name)) {
            info!(
                interface = interface.name,
                vlan = interface.vlan,
                mtu = interface.mtu,
                "interface is mirrored"
            );
        }
        for (_, interface) in old.iter().filter(|(_, i)| !has(new, &i.name)) {
            warn!(interface = interface.name, "interface is gone");
        }
    }

    /// Kept are the gateways of routes, and what leads to the hosts that were named.
    async fn keep_neighbours(&mut self) {
        let to_hosts = self.hosts.iter().filter_map(|&host| match self.view.routes.lookup(host)? {
            Route::Via { interface, gateway } => {
                Some((self.indices.index(interface)?, gateway.unwrap_or(host)))
            }
            _ => None,
        });
        // Hosts first: there may be more gateways than can be kept.
        let keys: Vec<Key> = to_hosts.chain(self.gateways.iter().copied()).collect();
        let neighbours = &self.mirror.neighbours;
        let probe = self.upkeep.keep(keys, |key| neighbours.state(key), Instant::now());
        for key in probe {
            self.probe(key).await;
        }
    }

    // ---- requests ----

    async fn probe(&mut self, key: Key) {
        // The kernel refuses while the link is down; the route over it goes, or the timer asks again.
        if !self.mirror.links.is_up(key.0) {
            self.upkeep.on_error(key, Instant::now());
            return;
        }
        match setup::probe(&mut self.requests, key).await {
            Ok(()) => {
                self.counters.probes.add(1);
            }
            Err(error) => {
                if self.counters.probes_failed.add(1) == 0 {
                    warn!(address = %key.1, %error, "the kernel does not resolve a neighbour; further ones are only counted");
                }
                self.upkeep.on_error(key, Instant::now());
            }
        }
    }

    pub(super) async fn carry_out(&mut self, command: Command) {
        match command {
            Command::Resolve(interface, address) => self.resolve(interface, address).await,
            Command::Keep(hosts) => {
                self.hosts = hosts;
                self.keep_neighbours().await;
            }
            Command::SetAddresses { port, addresses, reply } => {
                let done = self.set_addresses(port, addresses).await;
                // The view shows what was done before the caller goes on.
                self.wait_until_local(port).await;
                if self.wants_dump() {
                    self.dump_due().await;
                }
                if self.publish_at().is_some() {
                    self.publish(Routes::AtOnce).await;
                }
                // The caller may have given up waiting.
                let _ = reply.send(done);
            }
        }
    }

    async fn resolve(&mut self, interface: InterfaceId, address: IpAddr) {
        let Some(index) = self.indices.index(interface) else { return };
        let key = (index, address);
        match self.upkeep.ask(key, self.mirror.neighbours.state(key), Instant::now()) {
            Asked::Probe => self.probe(key).await,
            Asked::Nothing => {
                self.counters.asks_repeated.add(1);
            }
            Asked::Refused => {
                self.counters.asks_refused.add(1);
            }
        }
    }

    /// IPv4 addresses are local routes as soon as the kernel answers; for IPv6 ones (without duplicate address detection)
    /// it does the rest in a moment of its own, and without a carrier not at all.
    async fn wait_until_local(&mut self, port: PortId) {
        for _ in 0..LOCAL_WAIT_MS {
            self.drain(DATAGRAMS_WAITING);
            let addresses = self.configured.get(&port).map(Vec::as_slice).unwrap_or_default();
            if addresses.iter().all(|net| self.mirror.routes.has_local(net.addr())) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Makes `addresses` those that we put on the twin of `port`; others on it are left alone. All or nothing.
    async fn set_addresses(&mut self, port: PortId, addresses: Vec<IpNet>) -> Result<(), TwinError> {
        let Some(name) = self.ports.iter().find(|p| p.id == port).map(|p| p.name.clone()) else {
            return Err(TwinError::NoSuchPort { port });
        };
        let Some(index) = self.mirror.links.index_of(&name) else {
            return Err(TwinError::NoInterface { port: name });
        };
        setup::bring_up(&mut self.requests, index)
            .await
            .map_err(|source| TwinError::BringUp { port: name.clone(), source })?;
        let old = self.configured.get(&port).cloned().unwrap_or_default();
        let mut undo = Undo { index, added: Vec::new(), removed: Vec::new() };
        // IPv6 knows an address once, whatever its prefix: the old one must go first.
        for &gone in old.iter().filter(|a| addresses.iter().any(|b| a.addr() == b.addr() && *a != b)) {
            if let Err(source) = setup::remove_address(&mut self.requests, index, gone).await {
                undo.run(&mut self.requests).await;
                return Err(TwinError::address(&name, gone, &source));
            }
            undo.removed.push(gone);
        }
        for &address in &addresses {
            match setup::add_address(&mut self.requests, index, address).await {
                Ok(true) => undo.added.push(address),
                Ok(false) => {}
                Err(source) => {
                    undo.run(&mut self.requests).await;
                    return Err(TwinError::address(&name, address, &source));
                }
            }
        }
        for &gone in old.iter().filter(|a| !addresses.contains(a)) {
            if let Err(source) = setup::remove_address(&mut self.requests, index, gone).await {
                undo.run(&mut self.requests).await;
                return Err(TwinError::address(&name, gone, &source));
            }
            undo.removed.push(gone);
        }
        self.configured.insert(port, addresses);
        Ok(())
    }
}

/// What to take back when a change cannot be finished.
struct Undo {
    index: IfIndex,
    added: Vec<IpNet>,
    removed: Vec<IpNet>,
}

impl Undo {
    async fn run(self, socket: &mut Socket) {
        for address in self.added {
            if let Err(error) = setup::remove_address(socket, self.index, address).await {
                warn!(%address, %error, "cannot take an address back");
            }
        }
        for address in self.removed {
            if let Err(error) = setup::add_address(socket, self.index, address).await {
                warn!(%address, %error, "cannot put an address back");
            }
        }
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
