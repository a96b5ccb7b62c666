//! `lbd`, the daemon: arguments, the order of the start, the end. All else is in the library.

mod log;
mod plane;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use tracing::{info, warn};

use lb_control::arguments::Arguments;
use lb_control::config::{Config, model_of};
use lb_control::daemon::{self, Life, Setup, Socket, StartProblem};

use plane::Dpdk;

/// A list of connections may go on for so long after nobody reads it any more.
const LAST_REQUESTS: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let began = Instant::now();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // clap prints help and version to standard output, errors to standard error.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let result = match &arguments {
        Arguments { drivers: true, .. } => {
            lb_dataplane::drivers().for_each(|driver| println!("{driver}"));
            Ok(())
        }
        Arguments { check: true, .. } => check(&arguments),
        Arguments { forget: true, .. } => forget(&arguments),
        _ => serve(arguments, began),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{}", as_lines(&problem.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// Every line is the program's, so that it is found in a log of many.
fn as_lines(problem: &str) -> String {
    problem.lines().map(|line| format!("lbd: {line}")).collect::<Vec<_>>().join("\n")
}

fn load(arguments: &Arguments) -> Result<Config, StartProblem> {
    let config = Config::load(&arguments.config)?;
    daemon::check(&config).map_err(|error| format!("{}: {error}", arguments.config.display()))?;
    Ok(config)
}

fn check(arguments: &Arguments) -> Result<(), StartProblem> {
    let config = load(arguments)?;
    plane::check(&config).map_err(|error| format!("{}: {error}", arguments.config.display()))?;
    let servers: usize = config.services.iter().map(|service| service.servers.len()).sum();
    println!(
        "{}: valid: {} workers, {} ports, {} virtual services, {servers} real servers",
        arguments.config.display(),
        config.dataplane.workers.len(),
        config.ports.len(),
        config.services.len(),
    );
    Ok(())
}

fn forget(arguments: &Arguments) -> Result<(), StartProblem> {
    let config = load(arguments)?;
    let lb_dataplane::Forgotten { removed, predecessors } = plane::forget(&config)?;
    for removed in removed {
        println!("removed: {removed}");
    }
    let models = predecessors.iter().map(|name| model_of(name));
    for removed in config.model_file().into_iter().chain(models).flat_map(|model| daemon::forget(&model)) {
        println!("removed: {}", removed?.display());
    }
    Ok(())
}

/// Where the model is kept, whatever `api.socket` was before: nothing is lost by another name. Where nothing is to be kept, nothing
/// is left that a later start would take for the newest.
fn move_models(config: &Config, predecessors: &[String]) -> Option<PathBuf> {
    let model_file = config.model_file();
    let before = predecessors.iter().map(|name| model_of(name));
    let moved: Vec<String> = match &model_file {
        Some(model) => before.filter_map(|old| daemon::rename(&old, model).err()).collect(),
        None => {
            let own = model_of(&config.flow_memory_name());
            before.chain([own]).flat_map(|old| daemon::forget(&old)).filter_map(Result::err).collect()
        }
    };
    moved.iter().for_each(|problem| warn!("{problem}"));
    model_file
}

fn serve(arguments: Arguments, began: Instant) -> Result<(), StartProblem> {
    let config = load(&arguments)?;
    log::to_stderr();
    // From here on a signal does not end the process but asks it to: there will be traces to clean up.
    let mut life = Life::begin()?;
    // What another daemon may hold comes before anything that takes long or leaves traces.
    let (socket, unix) = Socket::listen(&config.api.socket)?;
    let http = config.api.http.map(daemon::listen_http).transpose()?;
    // Nothing is logged before this: a start that fails is one line.
    let plane = Arc::new(announce_if_slow("starting the data plane", || Dpdk::start(&config))?);
    info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %arguments.config.display(),
        workers = ?config.dataplane.workers,
        connections = config.dataplane.max_connections,
        after_ms = began.elapsed().as_millis() as u64,
        "data plane started"
    );
    plane.log_start();
    daemon::leave_to_workers(&config.dataplane.workers);
    let result = if life.was_told_to_stop() {
        Ok(())
    } else {
        let model_file = move_models(&config, plane.predecessors());
        let setup = Setup { config, config_path: arguments.config, unix, http, model_file, began };
        life.run(setup, plane.clone())
    };
    let stopping = Instant::now();
    stop(plane);
    drop(socket);
    if result.is_ok() {
        info!(after_ms = stopping.elapsed().as_millis() as u64, "stopped");
    }
    result
}

/// Ends the data plane, once the threads that still list connections have let go of it.
fn stop(mut plane: Arc<Dpdk>) {
    let deadline = Instant::now() + LAST_REQUESTS;
    loop {
        plane = match Arc::try_unwrap(plane) {
            Ok(plane) => return plane.stop(),
            Err(plane) => plane,
        };
        if Instant::now() > deadline {
            // The process ends all the same, and the kernel takes back what it lent.
            warn!("a request is still under way: the ports are not closed in order");
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Does `work`; when it takes longer than a second the log says what is going on.
fn announce_if_slow<T>(what: &'static str, work: impl FnOnce() -> T) -> T {
    let (done, is_done) = mpsc::channel::<()>();
    let announcer = thread::spawn(move || {
        if is_done.recv_timeout(Duration::from_secs(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
            info!("{what}");
        }
    });
    let result = work();
    drop(done);
    // It only waits and writes a line.
    let _ = announcer.join();
    result
}
