//! `lbd` for the measures that need it whole: in a network namespace of its own, on null ports, so that what it starts is in
//! nobody's way.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::bench::{Child, Context, text};

/// Connections that it has room for.
pub(crate) const CONNECTIONS: u32 = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `lbd`; dropping it kills it.
pub(crate) struct Lbd {
    child: Child,
    socket: PathBuf,
    /// From exec to readiness.
    pub(crate) start: Duration,
}

/// Why it cannot be run here, if so.
pub(crate) fn missing(context: &Context) -> Option<&'static str> {
    let can_unshare = || {
        let status = Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    if !context.programs.join("lbd").exists() {
        Some("lbd is not built")
    } else if !can_unshare() {
        Some("it needs root, for a network namespace and the twins")
    } else {
        None
    }
}

impl Lbd {
    /// Starts it with so many virtual services of ten real servers each, and waits until it is ready. It says so as to systemd,
    /// by a datagram to `NOTIFY_SOCKET`.
    ///
    /// # Errors
    /// What it says when it ends, or that it is not ready in time.
    pub(crate) fn start(context: &Context, services: u32) -> Result<Lbd> {
        let file = |name: &str| context.scratch.join(name);
        let (notify, config, log, socket) =
            (file("notify"), file("lbd.toml"), file("lbd.log"), file("api.sock"));
        let _there_is_none = fs::remove_file(&notify);
        let ready =
            UnixDatagram::bind(&notify).with_context(|| format!("listening on {}", notify.display()))?;
        ready.set_read_timeout(Some(Duration::from_millis(100)))?;
        fs::write(&config, toml(context, &socket, services)?)?;
        let output = fs::File::create(&log)?;
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", r#"ip link set lo up && exec "$0" --config "$1""#]);
        command.arg(context.program("lbd")?).arg(&config);
        command.env("NOTIFY_SOCKET", &notify).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let begun = Instant::now();
        let mut child = Child(command.spawn().context("unshare")?);
        loop {
            let mut datagram = [0; 4096];
            if let Ok(len) = ready.recv(&mut datagram)
                && String::from_utf8_lossy(&datagram[..len]).lines().any(|line| line == "READY=1")
            {
                return Ok(Lbd { child, socket, start: begun.elapsed() });
            }
            if child.0.try_wait()?.is_some() || begun.elapsed() > PATIENCE {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("lbd is not ready after {:.1} s: {}", begun.elapsed().as_secs_f32(), said.trim());
            }
        }
    }

    /// Speaks to it as an operator does.
    pub(crate) fn lbctl(&self, context: &Context) -> Result<Command> {
        let mut command = Command::new(context.program("lbctl")?);
        command.arg("--socket").arg(&self.socket);
        Ok(command)
    }

    /// The oldest tables that any worker uses.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn generation(&self) -> Result<u64> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /v1/workers HTTP/1.1\r\nHost: lbd\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        oldest(&answer).with_context(|| format!("lbd answers {answer:?}"))
    }

    pub(crate) fn stop(self) {
        self.child.end(Duration::from_secs(10));
    }
}

fn oldest(answer: &str) -> Option<u64> {
    let body = answer.split_once("\r\n\r\n")?.1;
    let workers: Vec<Value> = serde_json::from_str(body).ok()?;
    workers.iter().map(|worker| worker["generation"].as_u64()).min().flatten()
}

fn toml(context: &Context, socket: &Path, services: u32) -> Result<String> {
    let (cpu, huge_pages, socket) = (context.cpu, context.huge_pages, text(socket)?);
    let mut toml = format!(
        r#"[dataplane]
workers = [{cpu}]
driver_args = ["--no-pci"]
memory_mb = 512
huge_pages = {huge_pages}
flow_memory = "none"
max_connections = {CONNECTIONS}

[[port]]
name = "wan"
device = "net_null0,no-rx=1"
addresses = ["192.0.2.1/24"]
outside = true

[[port]]
name = "lan"
device = "net_null1,no-rx=1"
addresses = ["10.0.0.1/24"]

[api]
socket = "{socket}"
http = "127.0.0.1:9477"
"#
    );
    for service in 0..services {
        let servers: Vec<String> =
            (11..21).map(|server| format!("{{ address = \"10.0.0.{server}:8080\" }}")).collect();
        toml.push_str(&format!(
            "\n[[virtual_service]]\naddress = \"{}\"\nprotocol = \"tcp\"\nscheduler = \"rr\"\nreal_servers = [{}]\n",
            address(service),
            servers.join(", ")
        ));
    }
    Ok(toml)
}

/// Of the n-th virtual service.
pub(crate) fn address(service: u32) -> String {
    format!("192.0.2.{}:{}", 10 + service % 100, 1000 + service / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_that_lags_behind_counts() {
        let answer =
            "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n[{\"generation\":7,\"cpu\":1},{\"generation\":5}]";
        assert_eq!(oldest(answer), Some(5));
        assert_eq!(oldest("HTTP/1.1 200 OK\r\n\r\n[{}]"), None);
    }
}
