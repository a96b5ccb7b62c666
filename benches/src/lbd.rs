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

use crate::bench::{Child, Context, succeeded, text};

/// Connections that it has room for.
pub(crate) const CONNECTIONS: u32 = 1_000_000;
/// Real servers that it has room for: those that were just removed included.
const MAX_SERVERS: u32 = 250_000;
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
        Lbd::start_on(context, "net_null0,no-rx=1", services)
    }

    /// The same, where clients' packets come by this device.
    ///
    /// # Errors
    /// As [`Lbd::start`].
    pub(crate) fn start_on(context: &Context, wan: &str, services: u32) -> Result<Lbd> {
        let file = |name: &str| context.scratch.join(name);
        let (notify, config, log, socket) =
            (file("notify"), file("lbd.toml"), file("lbd.log"), file("api.sock"));
        let _there_is_none = fs::remove_file(&notify);
        let ready =
            UnixDatagram::bind(&notify).with_context(|| format!("listening on {}", notify.display()))?;
        ready.set_read_timeout(Some(Duration::from_millis(100)))?;
        fs::write(&config, toml(context, wan, &socket, services)?)?;
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
        oldest(&self.list("/v1/workers")?).context("lbd knows no worker's tables")
    }

    /// A list that the API has.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Value>> {
        let answer = self.ask(&format!("GET {path} HTTP/1.1\r\n"), "")?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
        body.and_then(|body| serde_json::from_str(body).ok())
            .with_context(|| format!("lbd answers {answer:?}"))
    }

    /// Tells Linux, where lbd learns it from, where this address is on this interface.
    ///
    /// # Errors
    /// What `ip` says.
    pub(crate) fn neighbour(&self, address: &str, interface: &str) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.child.0.id().to_string(), "ip", "neighbour", "replace"]);
        command.args([address, "lladdr", "02:00:00:00:00:02", "dev", interface, "nud", "permanent"]);
        succeeded(&mut command).map(drop)
    }

    /// Waits until every worker uses tables newer than those of this generation.
    ///
    /// # Errors
    /// When they do not within half a minute.
    pub(crate) fn until_newer(&self, generation: u64) -> Result<()> {
        let begun = Instant::now();
        while self.generation()? <= generation {
            if begun.elapsed() > PATIENCE {
                bail!("the worker still uses generation {generation} of the tables");
            }
        }
        Ok(())
    }

    /// Has one command done.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) fn command(&self, command: &str) -> Result<()> {
        let body = format!(r#"{{"commands":[{command}],"on_error":"rollback"}}"#);
        let head = format!("POST /v1/commands HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
        let answer = self.ask(&head, &body)?;
        if !answer.contains(r#""failed":[]"#) {
            bail!("{command}: {answer}");
        }
        Ok(())
    }

    fn ask(&self, head: &str, body: &str) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{head}Host: lbd\r\nConnection: close\r\n\r\n{body}").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    pub(crate) fn stop(self) {
        self.child.end(Duration::from_secs(10));
    }
}

fn oldest(workers: &[Value]) -> Option<u64> {
    workers.iter().map(|worker| worker["generation"].as_u64()).min().flatten()
}

fn toml(context: &Context, wan: &str, socket: &Path, services: u32) -> Result<String> {
    let (cpu, huge_pages, socket) = (context.cpu, context.huge_pages, text(socket)?);
    let mut toml = format!(
        r#"[dataplane]
workers = [{cpu}]
driver_args = ["--no-pci"]
memory_mb = 512
huge_pages = {huge_pages}
flow_memory = "none"
max_connections = {CONNECTIONS}
max_servers = {MAX_SERVERS}

[[port]]
name = "wan"
device = "{wan}"
addresses = ["192.0.2.1/24", "192.0.2.10/32"]
outside = true

[[port]]
name = "lan"
device = "net_null1,no-rx=1"
addresses = ["10.0.0.1/16"]

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

/// The n-th real server of all.
pub(crate) fn server(n: u32) -> String {
    format!("10.0.{}.{}:{}", 1 + n / 200 % 200, 11 + n % 200, 8000 + n / 40_000)
}

/// So many virtual services with ten real servers each, as `ipvsadm-save -n` writes them.
pub(crate) fn rules(services: u32) -> String {
    let of_service = |n: u32| {
        let service = address(n);
        let servers =
            (10 * n..10 * n + 10).map(move |m| format!("-a -t {service} -r {} -m -w 1\n", server(m)));
        std::iter::once(format!("-A -t {} -s wlc\n", address(n))).chain(servers)
    };
    (0..services).flat_map(of_service).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_worker_that_lags_behind_counts() {
        let workers = [json!({"generation": 7, "cpu": 1}), json!({"generation": 5})];
        assert_eq!(oldest(&workers), Some(5));
        assert_eq!(oldest(&[json!({})]), None);
    }
}
