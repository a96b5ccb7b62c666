//! The daemon's heart: one task owns all that can change, everybody else asks it.
//!
//! ```text
//! API ────┐
//! SIGHUP ─┼→ Handle ─(bounded queue)→ Control { model, statistics, tables } ─publish→ workers
//! twin ───┘                             │ every 250 ms: watchdog, ids to free; every 2 s: rates
//! ```
//!
//! A request is a closure that runs on that task, between two others: no lock, and each sees a whole state.

mod accounts;
mod alarms;
mod cookies;
mod cpus;
mod file;
mod handle;
mod host;
mod keep;
mod manager;
mod masqueraded;
mod reload;
mod run;
mod sets;
mod socket;
mod spread;
mod views;
mod watch;

use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use hashbrown::HashSet;
use lb_core::ids::{PortId, ServerId};
use lb_core::rule::Table;
use lb_core::tables::{Services, Settings, Tables};

use crate::api::accounts::AccountCommand;
use crate::api::idle_timers::IdleTimerView;
use crate::api::rules::{RuleBatch, RuleError, RuleFailure, RuleFamily, TableView};
use crate::api::types::{Batch, BatchReply, Command, ErrorBody, ErrorKind, Failure, OnError};
use crate::compile::{Compiler, Network};
use crate::config::{Config, PortAddress, Reload};
use crate::model::rules::{RuleTables, Written};
use crate::model::{Change, Limits, Model};
use crate::plane::Plane;
use crate::relief;
use crate::sets::IpSets;
use crate::stats::{self, ESTIMATE_EVERY_SECS, Statistics};
use crate::sync::{self, SyncState};
use crate::twin::TwinCounters;
use crate::zone;

use alarms::{Alarms, Counted};
pub use cpus::leave_to_workers;
pub use file::{forget, rename};
pub use handle::Handle;
use handle::Job;
pub(crate) use keep::KeepCounters;
use keep::{Keeper, Kept, State};
use reload::{log_commands, log_reload};
pub use run::{Life, Setup, StartProblem, listen_http};
pub use socket::{Socket, SocketError};
pub(crate) use views::{VERSION, cookie_view};
use watch::Watch;

/// Requests that wait for the control task; whoever asks more waits.
const REQUESTS: usize = 256;
/// Who names sets, for [`IpSets::refer`].
const RULES: &str = "rules";
const CARRYING_OVER: &str = "the connections of the run before are being carried over";
/// How soon what workers leave to be done to sets is done.
const GRANT_EVERY: Duration = Duration::from_millis(5);
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// The Linux side of the ports, as far as the daemon tells it something. What it tells the daemon comes by
/// [`Control::use_network`] and [`Control::set_twin_problem`].
pub trait Host: Send + 'static {
    /// Makes these the addresses that the config file puts on a port's twin.
    fn set_addresses(&self, port: PortId, addresses: &[PortAddress]);
    /// Says which services there are: their real servers' neighbour entries are kept fresh.
    fn keep_neighbours(&self, services: &Arc<Services>);
    /// Whether Linux has an interface of this name now.
    fn has_interface(&self, name: &str) -> bool;
    /// What could not be made so far and is tried again: one line each.
    fn problems(&self) -> Vec<String>;
    fn counters(&self) -> &TwinCounters;
}

/// All that can change. Lives on one task; see [`Handle`].
pub struct Control {
    model: Model,
    rules: RuleTables,
    statistics: Statistics,
    compiler: Compiler,
    /// Those that the config file sets; timeouts are the model's.
    settings: Settings,
    /// What the file said last, with the values that need a restart as they are in use.
    config: Config,
    config_path: PathBuf,
    plane: Arc<dyn Plane>,
    host: Box<dyn Host>,
    watch: Watch,
    alarms: Alarms,
    sets: IpSets,
    /// Where the sets outlive the process.
    sets_file: Option<sets::SetsFile>,
    /// `None`: nothing is to outlive the process.
    keeper: Option<Keeper>,
    /// The tables under which all workers were seen to be, and no real server is [overloaded without reason](relief).
    relieved: u32,
    /// Removed real servers that had no connection at the last look.
    idle: HashSet<ServerId>,
    twin_problem: Option<String>,
    /// For the sync daemons, wherever they run.
    sync: tokio::sync::watch::Sender<sync::Wanted>,
    sync_state: Arc<SyncState>,
    ready_since: Instant,
    /// SYNs that had been answered with a cookie when the key was exchanged.
    cookies_made: u64,
}

/// Room in the tables for what the config asks.
fn limits(config: &Config) -> Limits {
    let servers = config.dataplane.max_servers as usize;
    Limits { services: servers, servers }
}

/// Finds out whether a valid config's services can be made.
///
/// # Errors
/// The first that cannot, in one line.
pub fn check(config: &Config) -> Result<(), ErrorBody> {
    first_model(config, None).map(drop)
}

/// Why the host cannot do a command, whatever the model says.
fn refusal(host: &dyn Host, command: &Command) -> Option<ErrorBody> {
    let Command::StartSync(daemon) = command else { return None };
    (!host.has_interface(&daemon.interface)).then(|| {
        let message = format!("sync {}: there is no interface {:?}", daemon.role.name(), daemon.interface);
        ErrorBody::new(ErrorKind::NoSuchDevice, message)
    })
}

/// The model to begin with: that of the run before, with what the config file says otherwise than then; or the config
/// file's alone.
fn first_model(config: &Config, kept: Option<Kept>) -> Result<Model, ErrorBody> {
    if let Some(Kept { config: of_then, mut model, .. }) = kept {
        let difference = Reload::between(&of_then, config, &model);
        match model.apply_all(&difference.commands) {
            Ok(_) => {
                log_commands("config file changed since the run before", &difference.commands);
                return Ok(model);
            }
            Err((_, error)) => {
                warn!(%error, "the config file's changes do not fit the model of the run before: the config file alone counts");
            }
        }
    }
    let mut model = Model::new(limits(config));
    let first = Reload::first(config, &model);
    model.apply_all(&first.commands).map_err(|(_, error)| error)?;
    Ok(model)
}

/// A key that nobody outside can know.
fn secret() -> u64 {
    RandomState::new().hash_one(0)
}

/// The rules of the run before. A rule with a set that is gone, or with an estimator whose rule comes only later, is left out, and said; what else can no more be, its whole batch.
fn first_rules(
    batches: &[RuleBatch],
    accounts: &[AccountCommand],
    sets: &mut IpSets,
    plane: &dyn Plane,
) -> RuleTables {
    let mut rules = RuleTables::new(secret());
    rules.know_sets(sets.known());
    if let Err(failure) = rules.change_accounts(accounts) {
        warn!(why = %failure.message, "the accounts of the run before are not used");
    }
    for batch in batches {
        let say = |RuleFailure { table, command, message, .. }: &RuleFailure, what: &str| {
            let table = batch.tables.get(*table).map_or("", |change| &change.table);
            warn!(table, rule = command, why = %message, "{what} not used");
        };
        let mut leaves_out = |failure: &RuleFailure| {
            let is_alone = matches!(failure.error, RuleError::NoSuchSet | RuleError::NotThere);
            if is_alone {
                say(failure, "a rule of the run before is");
            }
            is_alone
        };
        if let Err(failure) = rules.apply_without(batch, plane.counters(), &mut leaves_out) {
            say(&failure, "the rules of the run before are");
        }
    }
    sets.refer(RULES, rules.sets());
    rules
}

impl Control {
    /// Makes the services of the run before and of the config, and publishes the first tables. `model_file` is where
    /// the run before left its model and this one leaves its own.
    ///
    /// # Errors
    /// As [`check`].
    pub fn start(
        config: Config,
        config_path: PathBuf,
        model_file: Option<&Path>,
        plane: Arc<dyn Plane>,
        host: Box<dyn Host>,
        network: &Network,
    ) -> Result<Control, ErrorBody> {
        let mut kept = model_file.and_then(|path| keep::recall(path, limits(&config)));
        let rules = kept.as_mut().map(|kept| std::mem::take(&mut kept.rules)).unwrap_or_default();
        let accounts = kept.as_mut().map(|kept| std::mem::take(&mut kept.accounts)).unwrap_or_default();
        let mut sets = sets::first(model_file);
        let mut model = first_model(&config, kept)?;
        model.key_limits(secret());
        let key = cookies::key().map_err(|error| {
            ErrorBody::new(ErrorKind::Unavailable, format!("no random numbers for SYN cookies: {error}"))
        })?;
        // Nothing fails from here on: dropped half made, it would save half a model.
        let mut control = Control {
            rules: first_rules(&rules, &accounts, &mut sets, &*plane),
            model,
            statistics: Statistics::default(),
            compiler: Compiler::default(),
            settings: Settings { booted: crate::sets::booted(), ..config.settings() },
            watch: Watch::new(plane.counters(), Instant::now()),
            alarms: Alarms::new(&*plane, Counted::default()),
            config_path,
            plane,
            host,
            sets,
            sets_file: model_file.map(sets::SetsFile::beside),
            keeper: model_file.and_then(Keeper::start),
            relieved: 0,
            idle: HashSet::new(),
            twin_problem: None,
            sync: Default::default(),
            sync_state: Arc::default(),
            ready_since: Instant::now(),
            cookies_made: 0,
            config,
        };
        control.compiler.rotate_cookies(key);
        let marks = sets::marks(&mut control.sets, &control.config.marks, &control.config.mark_sets);
        control.compiler.set_marks(marks);
        control.compiler.set_sets(control.sets.take_change().unwrap_or_default());
        control.compiler.set_rules(control.rules.compiled().clone());
        control.compiler.set_zone(zone::host());
        // No publication yet: the tables with the services follow at once.
        let _ = control.compiler.with_network(network);
        let services = control.model.services().map(|service| service.key).collect();
        control.settle(&Change { services, publish: true, ..Change::default() });
        control.keep();
        Ok(control)
    }

    /// Serves requests until every [`Handle`] is gone.
    pub fn spawn(self) -> Handle {
        let (jobs, queue) = mpsc::channel(REQUESTS);
        tokio::spawn(self.run(queue));
        Handle { jobs }
    }

    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let interval = |every| {
            let mut interval = tokio::time::interval(every);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        let mut watch = interval(WATCH_EVERY);
        let mut grant = interval(GRANT_EVERY);
        let mut rotate = interval(cookies::ROTATE_EVERY);
        let mut estimate = interval(Duration::from_secs(ESTIMATE_EVERY_SECS));
        loop {
            tokio::select! {
                job = jobs.recv() => match job {
                    Some(job) => job(&mut self),
                    None => return,
                },
                _ = watch.tick() => {
                    let now = Instant::now();
                    self.look_after(now);
                    self.warm_up(now);
                    self.look_after_sets();
                    self.plane.follow_links();
                }
                // Only rules have workers wish for something.
                _ = grant.tick(), if self.sets.are_named_by(RULES) => self.grant_wishes(),
                _ = rotate.tick() => self.rotate_cookies(),
                _ = estimate.tick() => {
                    self.statistics.estimate(self.plane.counters());
                    self.alarms.look(&*self.plane, self.counted(), Instant::now());
                }
            }
        }
    }

    /// Gives real servers that warm up the weights of this moment.
    fn warm_up(&mut self, now: Instant) {
        let change = self.model.pass(now.saturating_duration_since(self.ready_since));
        if change.publish {
            self.settle(&change);
        }
    }

    /// Does a batch of commands; all of it takes effect at one moment.
    pub fn batch(&mut self, batch: &Batch) -> BatchReply {
        self.warm_up(Instant::now());
        let host = &*self.host;
        let mut reply = BatchReply::default();
        let mut change = Change::default();
        match batch.on_error {
            OnError::Continue => {
                // What the host refuses is not the model's to do; what stands between is.
                let mut first = 0;
                for commands in batch.commands.split_inclusive(|command| refusal(host, command).is_some()) {
                    let refused = commands.last().and_then(|last| refusal(host, last));
                    let to_do = &commands[..commands.len() - usize::from(refused.is_some())];
                    change.add(self.model.apply_each(to_do, |index, error| {
                        reply.failed.push(Failure { index: first + index, error });
                        ControlFlow::Continue(())
                    }));
                    first += commands.len();
                    // What does not go at all is said first.
                    let of_model = |last| self.model.sync_refusal(last);
                    let error = refused.map(|error| commands.last().and_then(of_model).unwrap_or(error));
                    reply.failed.extend(error.map(|error| Failure { index: first - 1, error }));
                }
                reply.done = batch.commands.len() - reply.failed.len();
            }
            OnError::Rollback => {
                let refused = batch.commands.iter().enumerate();
                let refused =
                    refused.filter_map(|(index, command)| Some((index, refusal(host, command)?))).next();
                match refused.map_or_else(|| self.model.apply_all(&batch.commands), Err) {
                    Ok(done) => {
                        change = done;
                        reply.done = batch.commands.len();
                    }
                    Err((index, error)) => reply.failed.push(Failure { index, error }),
                }
            }
        }
        self.settle(&change);
        if change.publish {
            self.keep();
        }
        reply
    }

    /// Changes rules, wholly or not at all; all of it takes effect at one moment.
    ///
    /// # Errors
    /// The first command that cannot be done.
    pub fn change_rules(&mut self, batch: &RuleBatch) -> Result<(), RuleFailure> {
        self.rules.know_sets(self.sets.known());
        if self.plane.all_use(self.compiler.current().generation) {
            self.rules.release();
        }
        if self.rules.apply(batch, self.plane.counters())? {
            self.sets.refer(RULES, self.rules.sets());
            // The clock may have been set since.
            self.settings.booted = crate::sets::booted();
            self.compiler.set_zone(zone::host());
            self.compiler.set_rules(self.rules.compiled().clone());
            self.settle(&Change { publish: true, ..Change::default() });
            self.keep();
        }
        Ok(())
    }

    /// The rules as they are, to be read elsewhere.
    pub(crate) fn written_rules(&self) -> Written {
        self.rules.written()
    }

    /// The timers of rules, and how long it is until they run out.
    pub fn idle_timers(&self) -> Vec<IdleTimerView> {
        self.rules.idle_timers(crate::sets::now())
    }

    /// The rules of one table or of all.
    pub fn rules(&self, family: RuleFamily, table: Option<Table>) -> Vec<TableView> {
        self.rules.view(family, table, self.plane.counters())
    }

    /// What the sync daemons go by, and what they say of themselves.
    pub fn sync(&self) -> (tokio::sync::watch::Receiver<sync::Wanted>, Arc<SyncState>) {
        (self.sync.subscribe(), self.sync_state.clone())
    }

    /// Takes over what a new config file says (`docs/config.md`, "Reload"): wholly or not at all.
    ///
    /// # Errors
    /// What cannot be done; then nothing is changed.
    pub fn reload(&mut self, new: Config) -> Result<Reload, ErrorBody> {
        self.warm_up(Instant::now());
        let reload = Reload::between(&self.config, &new, &self.model);
        let (running, wanted) = (self.config.dataplane.max_servers, new.dataplane.max_servers);
        let mut change = self.model.apply_all(&reload.commands).map_err(|(_, mut error)| {
            if error.error == ErrorKind::Full && wanted > running {
                error.message += &format!(" until a restart, which takes the file's {wanted}");
            }
            error
        })?;
        if let Some(forwarding) = reload.forwarding {
            self.settings.forwarding = forwarding;
            change.publish = true;
        }
        if let Some(marks) = &reload.marks {
            self.compiler.set_marks(sets::marks(&mut self.sets, marks, &new.mark_sets));
            change.publish = true;
        }
        change.publish |= self.compiler.set_zone(zone::host());
        self.settle(&change);
        self.config = self.config.followed_by(new);
        self.keep();
        for (index, port) in self.config.ports.iter().enumerate() {
            if reload.addresses.iter().any(|change| change.port == port.name) {
                self.host.set_addresses(PortId(index as u16), &port.addresses);
            }
        }
        log_reload(&reload);
        Ok(reload)
    }

    /// Has the virtual services take no new connections from here on; those that there are go on. Returns how long they may.
    pub fn drain(&mut self) -> Duration {
        self.settings.draining = true;
        self.settle(&Change { publish: true, ..Change::default() });
        Duration::from_secs(self.config.dataplane.drain_secs.into())
    }

    /// Connections of virtual services, those included that are over and wait for their timer. What a drain waits for: all else in the
    /// flow tables is no service's, or is no connection (templates, connections that are expected).
    pub fn connections(&self) -> u64 {
        self.statistics.baselines().connections(self.plane.counters())
    }

    /// Whether every worker takes its turns.
    pub fn is_turning(&self) -> bool {
        (0..self.plane.counters().len()).all(|worker| !self.watch.is_stalled(worker))
    }

    /// Publishes tables with what Linux says now.
    pub fn use_network(&mut self, network: &Network) {
        if let Some(tables) = self.compiler.with_network(network) {
            self.plane.publish(tables);
        }
    }

    /// Whether rules are asked.
    fn has_rules(&self) -> bool {
        self.compiler.current().rules.are_active()
    }

    /// `Some`: the twins do not work, and why.
    pub fn set_twin_problem(&mut self, problem: Option<String>) {
        match (&self.twin_problem, &problem) {
            (None, Some(why)) => warn!(problem = %why, "twin is down"),
            (Some(_), None) => info!("twin is up again"),
            _ => {}
        }
        self.twin_problem = problem;
    }

    /// Why the daemon does not do what it should: one line each; empty when it is ready.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.watch.problems(&self.config.dataplane.workers);
        if self.settings.draining {
            problems.push(format!(
                "draining: {} connections are left, new ones are not taken",
                self.connections()
            ));
        }
        if !self.plane.takes_packets() {
            problems.push(CARRYING_OVER.to_owned());
        }
        let published = self.compiler.current().generation;
        for (index, worker) in self.plane.counters().iter().enumerate() {
            let used = worker.turns.generation.get();
            // A worker has none at first; later on it has a moment for each publication.
            if used == 0 || (used != u64::from(published) && self.watch.is_behind(index)) {
                problems.push(format!("worker {index} uses tables {used}, published are {published}"));
            }
        }
        let ports: Vec<_> = self.config.ports.iter().zip(self.plane.ports()).collect();
        let gone = ports.iter().filter(|(_, state)| state.twin_is_gone);
        problems.extend(gone.map(|(port, _)| format!("port {}: its twin is gone, restart lbd", port.name)));
        // Where there are several ways to clients, or to real servers, one is enough.
        for is_outside in [true, false] {
            let mut side = ports.iter().filter(|(port, _)| port.outside == is_outside).peekable();
            if side.peek().is_some() && side.clone().all(|(_, state)| !state.link_up) {
                problems.extend(side.map(|(port, _)| format!("port {}: no link", port.name)));
            }
        }
        problems.extend(self.host.problems());
        problems.extend(self.twin_problem.iter().map(|why| format!("twin: {why}")));
        problems
    }

    /// Whether all workers use the newest tables.
    pub fn is_adopted(&self) -> bool {
        self.plane.all_use(self.compiler.current().generation)
    }

    pub fn tables(&self) -> &Arc<Tables> {
        self.compiler.current()
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    pub fn plane(&self) -> &Arc<dyn Plane> {
        &self.plane
    }

    pub fn twin_counters(&self) -> &TwinCounters {
        self.host.counters()
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Has the model saved for the next run.
    fn keep(&self) {
        if let Some(keeper) = &self.keeper {
            let services = self.compiler.current().services.clone();
            keeper.keep(State {
                config: self.config.text.clone(),
                timeouts: self.model.timeouts(),
                sysctls: self.model.sysctls(),
                services,
                daemons: self.model.sync_daemons().cloned().collect(),
                fingerprints: self.model.fingerprints().clone(),
                rules: self.rules.written(),
                accounts: self.rules.known_accounts().clone(),
            });
        }
    }

    pub(crate) fn keep_counters(&self) -> Option<&KeepCounters> {
        self.keeper.as_ref().map(Keeper::counters)
    }

    /// Has the statistics, the workers and the twins follow a change of the model.
    fn settle(&mut self, change: &Change) {
        let workers = self.plane.counters();
        let changes = self.compiler.changes(&self.model, change.services.iter().copied());
        change.forgotten_servers.iter().for_each(|&id| self.statistics.forget(id));
        self.statistics.follow(&changes, workers);
        self.statistics.zero(&change.zeroed_services, &change.zeroed_servers, workers);
        if change.publish {
            self.compiler.set_fingerprints(self.model.fingerprints().clone());
            let tables = self.compiler.with_changes(&changes, self.model.settings(self.settings));
            self.host.keep_neighbours(&tables.services);
            self.sync.send_replace(sync::Wanted {
                daemons: self.model.sync_daemons().cloned().collect(),
                refresh: sync::refresh(&tables.settings),
                tables: tables.clone(),
            });
            self.plane.publish(tables);
            if !self.idle.is_empty() {
                // One that is back starts anew when it is removed again.
                let removed: HashSet<ServerId> = self.model.removed_servers().collect();
                self.idle.retain(|id| removed.contains(id));
            }
        }
    }

    /// Notices workers that stand still, relieves real servers, and lets removed real servers rest that have no connections and templates.
    fn look_after(&mut self, now: Instant) {
        let workers = self.plane.counters();
        let published = self.compiler.current().generation;
        self.watch.look(workers, published, now, &self.config.dataplane.workers);
        // Before all have adopted them, a worker may still bind a connection to a removed server.
        let is_adopted = self.plane.all_use(published);
        if is_adopted && self.relieved != published {
            self.rules.release();
            relief::relieve(&self.compiler.current().services, workers, drop);
            self.relieved = published;
        }
        if is_adopted && self.model.has_removed_servers() {
            // A connection that turns from active to inactive may be in neither count for a moment.
            let is_idle = |&id: &ServerId| {
                stats::connections(workers, id) == (0, 0) && stats::templates(workers, id) == 0
            };
            let idle: HashSet<ServerId> = self.model.removed_servers().filter(is_idle).collect();
            let was_idle = std::mem::take(&mut self.idle);
            let forgotten = self.model.rest(|id| idle.contains(&id) && was_idle.contains(&id));
            forgotten.into_iter().for_each(|id| self.statistics.forget(id));
            self.idle = idle.difference(&was_idle).copied().collect();
        }
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
