//! The daemon's life from the started data plane to the signal that ends it.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::host::{self, TwinHost};
use super::{Control, Handle};
use crate::api::{http, server};
use crate::config::Config;
use crate::plane::Plane;
use crate::twin::Twin;

/// All workers must use the first tables by then, or the log says so.
const ADOPTION: Duration = Duration::from_secs(1);

/// What the daemon is run with.
pub struct Setup {
    pub config: Config,
    pub config_path: PathBuf,
    pub unix: UnixListener,
    pub http: Option<TcpListener>,
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

/// Runs until SIGTERM or SIGINT. Threads of its own: call it where they may inherit the caller's CPUs.
///
/// # Errors
/// What does not start; nothing runs any more then.
pub fn run(setup: Setup, plane: Arc<dyn Plane>) -> Result<(), StartProblem> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start threads: {error}"))?;
    let result = runtime.block_on(live(setup, plane));
    // A list of connections that nobody reads must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

async fn live(setup: Setup, plane: Arc<dyn Plane>) -> Result<(), StartProblem> {
    // First of all, so that a signal during the start is not the end of a process with TAPs and XDP programs.
    let mut signals = Signals::new()?;
    let Setup { config, config_path, unix, http, began } = setup;
    let ports = host::twin_ports(&config);
    let twin = Arc::new(tokio::task::spawn_blocking(|| Twin::start(ports)).await??);
    let twin_host = TwinHost::start(twin.clone(), &config).await?;
    let network = twin.view().into();
    let socket = config.api.socket.clone();
    let control = Control::start(config, config_path.clone(), plane.clone(), Box::new(twin_host), &network)
        .map_err(|error| format!("{}: {error}", config_path.display()))?
        .spawn();
    let follower = tokio::spawn(host::follow(twin.clone(), control.clone()));
    let resolver = tokio::spawn(host::resolve(twin.clone(), plane.clone()));

    let (stop, stopped) = watch::channel(false);
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
    await_adoption(&control).await;
    info!(socket = %socket.display(), after_ms = began.elapsed().as_millis() as u64, "ready");
    notify(&[NotifyState::Ready]);

    loop {
        match signals.next().await {
            Asked::Reload => {
                notify(&[NotifyState::Reloading]);
                reload(&control, config_path.clone()).await;
                notify(&[NotifyState::Ready]);
            }
            Asked::Stop(name) => {
                info!(signal = name, "stopping");
                break;
            }
        }
    }
    notify(&[NotifyState::Stopping]);
    let _ = stop.send(true);
    for server in servers {
        let _ = server.await;
    }
    follower.abort();
    resolver.abort();
    Ok(())
}

/// Waits until all workers use the first tables; when they do not, the daemon runs on and says so.
async fn await_adoption(control: &Handle) {
    let deadline = Instant::now() + ADOPTION;
    loop {
        let problems = control.ask(|control| control.problems()).await.unwrap_or_default();
        if problems.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            warn!(problems = %problems.join("; "), "not ready yet");
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
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

fn notify(states: &[NotifyState]) {
    // Without systemd there is nobody to tell.
    if std::env::var_os("NOTIFY_SOCKET").is_some()
        && let Err(error) = sd_notify::notify(states)
    {
        warn!(%error, "cannot notify the service manager");
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
}
