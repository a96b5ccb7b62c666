//! The daemon's life from the started data plane to the signal that ends it.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, timeout};
use tracing::{debug, error, info, warn};

use super::host::{self, TwinHost};
use super::manager::Manager;
use super::masqueraded::{Lost, end_masqueraded};
use super::{Control, Handle};
use crate::api::{http, server};
use crate::config::Config;
use crate::nflog;
use crate::plane::Plane;
use crate::sync;
use crate::twin::Twin;

/// What keeps the daemon from being ready for longer is said.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the connections are counted that are left while draining.
const DRAIN_LOOK: Duration = Duration::from_millis(100);
/// Within this time after the last sign of life the service manager may expect the end.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// What the daemon is run with.
pub struct Setup {
    pub config: Config,
    pub config_path: PathBuf,
    pub unix: UnixListener,
    pub http: Option<TcpListener>,
    /// Where the model outlives the process.
    pub model_file: Option<PathBuf>,
    /// When the process began.
    pub began: Instant,
}

/// Why the daemon does not start: one line.
pub type StartProblem = Box<dyn std::error::Error + Send + Sync>;

/// Listens on the address of metrics and health.
///
/// # Errors
/// Names the address and the reason.
pub fn listen_http(address: SocketAddr) -> Result<TcpListener, StartProblem> {
    let failed = |error| format!("api.http {address}: cannot listen: {error}");
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// The process from its first trace on: its threads, and the signals that are answered from then on.
pub struct Life {
    runtime: tokio::runtime::Runtime,
    signals: Signals,
}

impl Life {
    /// Takes over SIGHUP, SIGTERM and SIGINT. What comes before [`Life::run`] is kept for it.
    ///
    /// # Errors
    /// Threads or handlers that the system does not grant.
    pub fn begin() -> Result<Life, StartProblem> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("control")
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start threads: {error}"))?;
        let signals = {
            let _inside = runtime.enter();
            Signals::new().map_err(|error| format!("cannot handle signals: {error}"))?
        };
        Ok(Life { runtime, signals })
    }

    /// Whether SIGTERM or SIGINT came; logs which, once.
    pub fn was_told_to_stop(&mut self) -> bool {
        let asked = self.runtime.block_on(async { timeout(Duration::ZERO, self.signals.stop()).await });
        if let Ok(signal) = asked {
            info!(signal, "stopping");
        }
        asked.is_ok()
    }

    /// Runs until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// What does not start; nothing runs any more then.
    pub fn run(self, setup: Setup, plane: Arc<dyn Plane>) -> Result<(), StartProblem> {
        let Life { runtime, signals } = self;
        let result = runtime.block_on(live(setup, plane, signals));
        // A list of connections that nobody reads must not hold up the end.
        runtime.shutdown_timeout(Duration::from_millis(500));
        result
    }
}

async fn live(setup: Setup, plane: Arc<dyn Plane>, mut signals: Signals) -> Result<(), StartProblem> {
    let Setup { config, config_path, unix, http, model_file, began } = setup;
    let ports = host::twin_ports(&config);
    let twin = Arc::new(tokio::task::spawn_blocking(|| Twin::start(ports)).await??);
    let twin_host = TwinHost::start(twin.clone(), &config).await?;
    let network = twin.view().into();
    let socket = config.api.socket.clone();
    let (plane_of_control, host) = (plane.clone(), Box::new(twin_host));
    let control =
        Control::start(config, config_path.clone(), model_file.as_deref(), plane_of_control, host, &network)
            .map_err(|error| format!("{}: {error}", config_path.display()))?;
    let (wanted_sync, sync_state) = control.sync();
    let sync = tokio::spawn(sync::run(wanted_sync, plane.clone(), sync_state));
    let control = control.spawn();
    let (stop, stopped) = watch::channel(false);
    let lost = Arc::new(Lost::default());
    let follower = tokio::spawn(host::follow(twin.clone(), control.clone(), lost.clone()));
    let ender = tokio::spawn(end_masqueraded(lost, control.clone(), plane.clone()));
    let resolver = tokio::spawn(host::resolve(twin.clone(), plane.clone()));
    let packet_log = tokio::spawn(log_packets(control.clone()));
    let captures = tokio::spawn(keep_packets(control.clone(), stopped.clone()));

    unix.set_nonblocking(true)?;
    let unix = tokio::net::UnixListener::from_std(unix)?;
    let mut servers = vec![tokio::spawn(http::serve(
        unix,
        server::unix_router(control.clone(), plane.clone()),
        stopped.clone(),
    ))];
    if let Some(http) = http {
        let address = http.local_addr()?;
        let listener = tokio::net::TcpListener::from_std(http)?;
        info!(%address, "serves metrics and health");
        servers.push(tokio::spawn(http::serve(
            listener,
            server::tcp_router(control.clone(), plane),
            stopped,
        )));
    }
    let manager = Arc::new(Manager::start(std::env::var_os("NOTIFY_SOCKET")));
    let (to_manager, of_control) = (manager.clone(), control.clone());
    let alive = tokio::spawn(async move {
        say_when_ready(&of_control, &to_manager, &socket, began).await;
        if let Some(limit) = sd_notify::watchdog_enabled() {
            feed_watchdog(&of_control, &to_manager, limit).await;
        }
    });

    loop {
        match signals.next().await {
            Asked::Reload => {
                manager.tell(&NotifyState::Reloading);
                reload(&control, config_path.clone()).await;
                manager.tell(&NotifyState::Ready);
            }
            Asked::Stop(name) => {
                info!(signal = name, "stopping");
                break;
            }
        }
    }
    manager.tell(&NotifyState::Stopping);
    drain(&control, &manager, &mut signals, &config_path).await;
    let _ = stop.send(true);
    let ends = async {
        for server in servers {
            let _ = server.await;
        }
    };
    if timeout(http::DRAIN + Duration::from_secs(1), ends).await.is_err() {
        warn!("requests under way are broken off");
    }
    alive.abort();
    let _ = alive.await;
    if let Some(manager) = Arc::into_inner(manager) {
        manager.end().await;
    }
    sync.abort();
    follower.abort();
    ender.abort();
    resolver.abort();
    packet_log.abort();
    // It was told to stop, and has a file to end.
    if timeout(Duration::from_secs(1), captures).await.is_err() {
        warn!("packets of NFLOG rules may be missing in their files");
    }
    Ok(())
}

/// Writes what LOG rules want told, so many lines a round at most: what comes faster finds the queue full and is counted.
async fn log_packets(control: Handle) {
    const ROUND: Duration = Duration::from_millis(200);
    const LINES: usize = 500;
    let (mut lost_before, mut untraced_before) = (0, 0);
    loop {
        tokio::time::sleep(ROUND).await;
        let Ok((lines, lost, untraced)) = control.ask(|control| control.packet_log(LINES)).await else {
            return;
        };
        for (level, line) in lines {
            // As syslog(3) counts them.
            let priority = u64::from(level);
            match level {
                0..=3 => error!(target: "netfilter", priority, "{line}"),
                4 => warn!(target: "netfilter", priority, "{line}"),
                5 | 6 => info!(target: "netfilter", priority, "{line}"),
                _ => debug!(target: "netfilter", priority, "{line}"),
            }
        }
        if lost != lost_before {
            warn!(lines = lost.wrapping_sub(lost_before), "packets of LOG rules were not written: too many");
            lost_before = lost;
        }
        if untraced != untraced_before {
            let packets = untraced.wrapping_sub(untraced_before);
            warn!(packets, "packets of TRACE rules were not traced: too many in a second");
            untraced_before = untraced;
        }
    }
}

/// Writes the packets that NFLOG rules want kept, so many a round at most, until it is told to stop.
async fn keep_packets(control: Handle, mut stopped: watch::Receiver<bool>) {
    const ROUND: Duration = Duration::from_millis(50);
    const PACKETS: usize = 512;
    let mut writer: Option<nflog::Writer> = None;
    loop {
        let is_end = timeout(ROUND, stopped.changed()).await.is_ok();
        let known = control.ask(|control| control.captures()).await;
        if let Ok(Some((captures, interfaces, config))) = known {
            let mut one = writer.take().unwrap_or_else(|| nflog::Writer::new(config.clone()));
            let written = tokio::task::spawn_blocking(move || {
                one.follow(&config, &captures);
                let now = nflog::Now::read();
                let taken = std::iter::from_fn(|| captures.take()).take(PACKETS);
                taken.for_each(|captured| one.put(captured, &interfaces, now, &captures));
                if is_end {
                    one.end(&captures)
                } else {
                    one.turn(&captures)
                }
                one
            });
            writer = written.await.ok();
        }
        if is_end {
            return;
        }
    }
}

/// Tells the log and the service manager when the daemon is ready: the workers take packets by the first tables, and
/// nothing is wrong. What is wrong for longer (a port without a link) is said, and does not hold up the service manager,
/// once packets are taken.
async fn say_when_ready(control: &Handle, manager: &Manager, socket: &Path, began: Instant) {
    let deadline = Instant::now() + PATIENCE;
    let mut is_said = false;
    loop {
        let (is_adopted, problems) =
            control.ask(|control| (control.is_adopted(), control.problems())).await.unwrap_or_default();
        if is_adopted && problems.is_empty() {
            info!(socket = %socket.display(), after_ms = began.elapsed().as_millis() as u64, "ready");
            break;
        }
        if Instant::now() > deadline {
            if !is_said {
                warn!(is_adopted, problems = %problems.join("; "), "not ready yet");
                is_said = true;
            }
            if is_adopted {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    manager.tell(&NotifyState::Ready);
}

/// Tells the service manager's watchdog, which waits no longer than `limit`, that all goes on: as long as every worker takes
/// its turns and the control task answers.
async fn feed_watchdog(control: &Handle, manager: &Manager, limit: Duration) {
    let mut ticks = tokio::time::interval(limit / 4);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match control.ask(|control| control.is_turning()).await {
            Ok(true) => manager.remind(&NotifyState::Watchdog),
            Ok(false) => {}
            Err(_) => return,
        }
    }
}

/// Lets the connections end that there are, when the config file says so, while no new ones are taken. What the operator
/// changes meanwhile is done, and is there after the next start. A second signal ends it.
async fn drain(control: &Handle, manager: &Manager, signals: &mut Signals, config_path: &Path) {
    let asked = control.ask(|control| match control.config().dataplane.drain_secs {
        0 => None,
        _ => Some((control.drain(), control.connections())),
    });
    let Ok(Some((limit, connections))) = asked.await else { return };
    info!(connections, limit_secs = limit.as_secs(), "draining: no new connections are taken");
    let began = Instant::now();
    let reloads = async {
        loop {
            match signals.next().await {
                Asked::Reload => reload(control, config_path.to_owned()).await,
                Asked::Stop(name) => return name,
            }
        }
    };
    let why = tokio::select! {
        () = no_connection(control, manager) => "no connection is left",
        () = tokio::time::sleep(limit) => "the time is over",
        name = reloads => name,
    };
    let connections = control.ask(|control| control.connections()).await.unwrap_or_default();
    info!(connections, why, after_secs = began.elapsed().as_secs(), "drained");
}

/// Waits until no virtual service has a connection and none can get one.
async fn no_connection(control: &Handle, manager: &Manager) {
    // A connection that turns from active to inactive may be in neither count for a moment.
    let mut was_over = false;
    loop {
        // Meanwhile systemd's own limit for stopping does not run out.
        manager.remind(&NotifyState::ExtendTimeoutUsec(STOP_TIMEOUT.as_micros() as u32));
        let is_over = control.ask(|control| control.is_adopted() && control.connections() == 0).await;
        let is_over = is_over.unwrap_or(true);
        if is_over && was_over {
            return;
        }
        was_over = is_over;
        tokio::time::sleep(DRAIN_LOOK).await;
    }
}

async fn reload(control: &Handle, path: PathBuf) {
    info!(config = %path.display(), "reloading");
    let loaded = match tokio::task::spawn_blocking(move || Config::load(&path)).await {
        Ok(loaded) => loaded,
        Err(panic) => return error!(error = %panic, "reload failed, nothing is changed"),
    };
    match loaded {
        Err(errors) => {
            for line in errors.to_string().lines() {
                error!("reload: {line}");
            }
            error!("reload refused: the file is invalid, nothing is changed");
        }
        Ok(config) => match control.ask(move |control| control.reload(config)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) | Err(error) => error!(%error, "reload refused, nothing is changed"),
        },
    }
}

enum Asked {
    Reload,
    Stop(&'static str),
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
        }
    }

    /// Leaves SIGHUP for [`Signals::next`].
    async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[test]
    fn a_signal_during_the_start_is_kept_for_its_end() {
        let mut life = Life::begin().expect("threads and handlers");
        assert!(!life.was_told_to_stop());
        kill_process(getpid(), Signal::HUP).expect("sent");
        kill_process(getpid(), Signal::TERM).expect("sent");
        // The runtime's own thread passes it on.
        while !life.was_told_to_stop() {
            std::thread::yield_now();
        }
        assert!(matches!(life.runtime.block_on(life.signals.next()), Asked::Reload), "for later");
    }
}
