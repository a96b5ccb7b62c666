//! From the start of `lbd` until it says that it is ready, with room for a million connections.
//!
//! It says so as to systemd, by a datagram to `NOTIFY_SOCKET`. It runs in a network namespace of its own on null ports, so that
//! what it starts is on nobody's way.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Child, Context, Found, text};
use crate::results::{Row, SECONDS};

const CONNECTIONS: u32 = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(context: &Context) -> Result<Found> {
    if !context.programs.join("lbd").exists() {
        return Ok(Found::left_out("lbd-ready", "lbd is not built"));
    }
    if !can_make_namespaces() {
        return Ok(Found::left_out("lbd-ready", "it needs root, for a network namespace and the twins"));
    }
    let runs = (0..5).map(|_| start(context)).collect::<Result<Vec<f64>>>()?;
    Ok(Found {
        rows: vec![Row::new("lbd-ready", CONNECTIONS, SECONDS, runs)],
        notes: vec![
            "lbd-ready: from exec to readiness, room for 1,000,000 connections, two null ports.".to_owned(),
        ],
    })
}

fn can_make_namespaces() -> bool {
    Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn start(context: &Context) -> Result<f64> {
    let notify = context.scratch.join("notify");
    let config = context.scratch.join("lbd.toml");
    let log = context.scratch.join("lbd.log");
    let _there_is_none = fs::remove_file(&notify);
    let socket = UnixDatagram::bind(&notify).with_context(|| format!("listening on {}", notify.display()))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    fs::write(&config, toml(context)?)?;
    let file = fs::File::create(&log)?;
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", r#"ip link set lo up && exec "$0" --config "$1""#]);
    command.arg(context.program("lbd")?).arg(&config);
    command.env("NOTIFY_SOCKET", &notify).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let begun = Instant::now();
    let mut child = Child(command.spawn().context("unshare")?);
    loop {
        let mut datagram = [0; 4096];
        if let Ok(len) = socket.recv(&mut datagram)
            && String::from_utf8_lossy(&datagram[..len]).lines().any(|line| line == "READY=1")
        {
            break;
        }
        let ended = child.0.try_wait()?;
        if ended.is_some() || begun.elapsed() > PATIENCE {
            let said = fs::read_to_string(&log).unwrap_or_default();
            bail!("lbd is not ready after {:.1} s: {}", begun.elapsed().as_secs_f32(), said.trim());
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    child.end(Duration::from_secs(10));
    Ok(seconds)
}

fn toml(context: &Context) -> Result<String> {
    let (cpu, huge_pages) = (context.cpu, context.huge_pages);
    let socket = context.scratch.join("api.sock");
    Ok(format!(
        r#"
[dataplane]
workers = [{cpu}]
driver_args = ["--no-pci"]
memory_mb = 512
huge_pages = {huge_pages}
max_connections = {CONNECTIONS}

[[port]]
name = "wan"
device = "net_null0"
addresses = ["192.0.2.1/24", "192.0.2.10/32"]
outside = true

[[port]]
name = "lan"
device = "net_null1,no-rx=1"
addresses = ["10.0.0.1/24"]

[api]
socket = "{}"
http = "127.0.0.1:9477"

[[virtual_service]]
address = "192.0.2.10:80"
protocol = "tcp"
scheduler = "rr"
real_servers = [ {{ address = "10.0.0.11:8080" }}, {{ address = "10.0.0.12:8080" }} ]
"#,
        text(&socket)?
    ))
}
