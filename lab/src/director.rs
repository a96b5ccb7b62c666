//! `lbd` in the director's namespace, driven as an operator would: config file, signals, `lbctl`, metrics.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;

use crate::metrics::Metrics;
use crate::namespace::Namespace;
use crate::process::Process;
use crate::server::{ECHO_PORT, HTTP_PORT};
use crate::topology::{self, LAN_LINK, Lab, WAN_LINK};
use crate::wait;

/// Where metrics and health are served, inside the director's namespace.
pub const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9477);

/// Longest start of `lbd` that is waited for.
const START_LIMIT: Duration = wait::PATIENCE;
/// Longest orderly stop.
const STOP_LIMIT: Duration = wait::PATIENCE;

/// The DPDK driver on the director's links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Takes the packets away from the kernel; one queue.
    AfXdp,
    /// The kernel sees a copy, which the lab drops.
    AfPacket,
    /// Two TAP devices that `lbd` makes, bridged to the links when it is ready: the driver without a card that has receive interrupts.
    Tap,
}

/// What a config file of `lbd` in the lab says.
#[derive(Clone, Debug)]
pub struct LbdPlan {
    pub driver: Driver,
    pub workers: Vec<u32>,
    pub mtu: u16,
    pub lan_mtu: u16,
    pub max_connections: u32,
    pub drain_secs: u32,
    /// `dataplane.idle`.
    pub idle: &'static str,
    /// `dataplane.flow_memory`; `None`: left out, so that connections and twins are kept.
    pub flow_memory: Option<&'static str>,
    /// The `[[virtual_service]]` blocks and whatever else comes after the ports, as TOML.
    pub services: String,
}

impl Default for LbdPlan {
    /// One worker on the last CPU, AF_XDP, and the virtual services of [`LbdPlan::usual_services`].
    fn default() -> LbdPlan {
        LbdPlan {
            driver: Driver::AfXdp,
            workers: vec![last_cpu()],
            mtu: 1500,
            lan_mtu: 1500,
            max_connections: 65536,
            drain_secs: 0,
            idle: "auto",
            flow_memory: None,
            services: LbdPlan::usual_services(3, "rr"),
        }
    }
}

impl LbdPlan {
    /// TCP port 80 (to the servers' 8080) and UDP [`ECHO_PORT`] on the VIP, IPv4 and IPv6, over the first `servers`.
    pub fn usual_services(servers: u8, scheduler: &str) -> String {
        let v4: Vec<IpAddr> = (0..servers).map(|index| topology::server(index).into()).collect();
        let v6: Vec<IpAddr> = (0..servers).map(|index| topology::server_v6(index).into()).collect();
        [(topology::VIP.into(), v4), (topology::VIP_V6.into(), v6)]
            .iter()
            .flat_map(|(vip, servers)| {
                [("tcp", 80, HTTP_PORT), ("udp", ECHO_PORT, ECHO_PORT)].map(|(protocol, port, real)| {
                    let servers: Vec<(SocketAddr, u32)> =
                        servers.iter().map(|address| (SocketAddr::new(*address, real), 1)).collect();
                    LbdPlan::service(SocketAddr::new(*vip, port), protocol, scheduler, &servers)
                })
            })
            .collect()
    }

    /// Services in round robin on the VIP, IPv4 and IPv6, whose real servers are reached `by` a method (`forward = …`): of `all` a
    /// protocol, a port, and over how many. With `is_mixed` they are of the other family.
    pub fn services_by(by: &str, is_mixed: bool, all: &[(&str, u16, u8)]) -> String {
        let mut text = String::new();
        for vip in [IpAddr::from(topology::VIP), topology::VIP_V6.into()] {
            let is_ipv6 = vip.is_ipv6() != is_mixed;
            let address = |index| -> IpAddr {
                if is_ipv6 { topology::server_v6(index).into() } else { topology::server(index).into() }
            };
            for &(protocol, port, servers) in all {
                let servers: String = (0..servers)
                    .map(|index| format!("{{ address = \"{}\", {by} }}, ", address(index)))
                    .collect();
                text += &format!(
                    "\n[[virtual_service]]\naddress = \"{}\"\nprotocol = \"{protocol}\"\nscheduler = \"rr\"\n\
                     real_servers = [{servers}]\n",
                    SocketAddr::new(vip, port)
                );
            }
        }
        text
    }

    /// One `[[virtual_service]]` with real servers and their weights.
    pub fn service(
        vip: SocketAddr,
        protocol: &str,
        scheduler: &str,
        servers: &[(SocketAddr, u32)],
    ) -> String {
        let servers: Vec<String> = servers
            .iter()
            .map(|(address, weight)| format!("  {{ address = \"{address}\", weight = {weight} }},\n"))
            .collect();
        format!(
            "\n[[virtual_service]]\naddress = \"{vip}\"\nprotocol = \"{protocol}\"\n\
             scheduler = \"{scheduler}\"\nreal_servers = [\n{}]\n",
            servers.concat()
        )
    }

    /// The config file.
    pub fn toml(&self, socket: &Path) -> String {
        let wan = format!(
            "\"{}/24\", \"{}/32\", \"{}/64\", \"{}/128\"",
            topology::DIRECTOR,
            topology::VIP,
            topology::DIRECTOR_V6,
            topology::VIP_V6
        );
        let lan = format!("\"{}/24\", \"{}/64\"", topology::GATEWAY, topology::GATEWAY_V6);
        self.toml_with(socket, &wan, &lan)
    }

    /// The config file of the standby: neither the VIP nor the servers' gateway is its own yet.
    pub fn standby_toml(&self, socket: &Path) -> String {
        let own = |side: usize| {
            format!("\"{}/24\", \"{}/64\"", topology::STANDBY[side], topology::STANDBY_V6[side])
        };
        self.toml_with(socket, &own(0), &own(1))
    }

    fn toml_with(&self, socket: &Path, wan_addresses: &str, lan_addresses: &str) -> String {
        let (wan, lan) = match self.driver {
            Driver::AfXdp => {
                (format!("net_af_xdp0,iface={WAN_LINK}"), format!("net_af_xdp1,iface={LAN_LINK}"))
            }
            Driver::AfPacket => (self.af_packet(0, WAN_LINK), self.af_packet(1, LAN_LINK)),
            Driver::Tap => (format!("net_tap0,iface={WAN_TAP}"), format!("net_tap1,iface={LAN_TAP}")),
        };
        format!(
            "[dataplane]
workers = {workers:?}
driver_args = [\"--no-pci\"]
memory_mb = 256
huge_pages = false
max_connections = {max_connections}
drain_secs = {drain_secs}
idle = \"{idle}\"
{flow_memory}

[[port]]
name = \"wan\"
device = \"{wan}\"
addresses = [{wan_addresses}]
outside = true
mtu = {mtu}

[[port]]
name = \"lan\"
device = \"{lan}\"
addresses = [{lan_addresses}]
mtu = {lan_mtu}

[api]
socket = \"{socket}\"
http = \"{HTTP}\"
{services}",
            workers = self.workers,
            max_connections = self.max_connections,
            drain_secs = self.drain_secs,
            idle = self.idle,
            flow_memory =
                self.flow_memory.map(|path| format!("flow_memory = \"{path}\"")).unwrap_or_default(),
            mtu = self.mtu,
            lan_mtu = self.lan_mtu,
            socket = socket.display(),
            services = self.services,
        )
    }

    /// Devargs of `net_af_packet`: a queue pair a worker, and frames that hold the MTU.
    fn af_packet(&self, number: u8, link: &str) -> String {
        // Room for the kernel's header, a gap, and the Ethernet header. Blocks are whole pages and whole frames.
        let (frame, block) = if self.mtu.max(self.lan_mtu) > 1900 { (9088, 9088 * 32) } else { (2048, 4096) };
        format!(
            "net_af_packet{number},iface={link},qpairs={},framesz={frame},blocksz={block},framecnt=512",
            self.workers.len()
        )
    }
}

/// The machine's last CPU: the first does the rest of the work.
pub fn last_cpu() -> u32 {
    std::thread::available_parallelism().map_or(0, |count| count.get().saturating_sub(1) as u32)
}

/// The build's own `lbd` or `lbctl`: the one beside this program, or beside the test's directory.
///
/// # Errors
/// When it was not built: names the command that does.
pub fn program(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("where this program is")?;
    let dir = this.parent().context("this program has no directory")?;
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    let path = dir.join(name);
    if !path.is_file() {
        bail!("{} is not there: cargo build --workspace --bins --profile test", path.display());
    }
    Ok(path)
}

/// A running `lbd`; dropping it kills it (use [`Director::stop`] for an orderly end).
#[derive(Debug)]
pub struct Director {
    namespace: Namespace,
    dir: PathBuf,
    process: Process,
}

impl Director {
    /// Starts `lbd` on the plan's config and waits until it is ready.
    ///
    /// # Errors
    /// When it ends instead: with its output.
    pub fn start(lab: &Lab, plan: &LbdPlan) -> Result<Director> {
        let mut director = Director::spawn(lab, plan, "lbd")?;
        director.until_serving(lab, plan)?;
        Ok(director)
    }

    /// Waits until it is ready, after [`Director::spawn`], and has packets come to it.
    pub(crate) fn until_serving(&mut self, lab: &Lab, plan: &LbdPlan) -> Result<()> {
        self.until_ready()?;
        if plan.driver == Driver::Tap {
            bridge_taps(lab.director())?;
        }
        Ok(())
    }

    /// Starts `lbd` without waiting; `name` distinguishes its log and config from another one's.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub fn spawn(lab: &Lab, plan: &LbdPlan, name: &str) -> Result<Director> {
        if plan.driver == Driver::AfPacket {
            silence_kernel(lab.director())?;
        }
        Director::spawn_on(lab, &plan.toml(&socket(lab.dir())), name)
    }

    /// Starts `lbd` on a config file of the caller's own, without waiting.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub fn spawn_on(lab: &Lab, toml: &str, name: &str) -> Result<Director> {
        Director::spawn_under(lab, toml, name, &[])
    }

    /// As [`Director::spawn_on`], by a program that becomes `lbd`: `env`, `setpriv` and their arguments.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub fn spawn_under(lab: &Lab, toml: &str, name: &str, before: &[&str]) -> Result<Director> {
        Director::spawn_in(lab.director(), lab.dir(), toml, name, before)
    }

    /// Starts `lbd` as the standby and waits until it is ready.
    ///
    /// # Errors
    /// When there is no standby in the lab, or it ends instead: with its output.
    pub fn start_standby(lab: &Lab, plan: &LbdPlan) -> Result<Director> {
        let namespace = lab.standby().context("the lab has no standby")?;
        let dir = lab.dir().join("standby");
        fs::create_dir_all(&dir)?;
        if plan.driver == Driver::AfPacket {
            silence_kernel(namespace)?;
        }
        let mut director =
            Director::spawn_in(namespace, &dir, &plan.standby_toml(&socket(&dir)), "lbd", &[])?;
        director.until_ready()?;
        Ok(director)
    }

    fn spawn_in(
        namespace: &Namespace,
        dir: &Path,
        toml: &str,
        name: &str,
        before: &[&str],
    ) -> Result<Director> {
        let config = dir.join(format!("{name}.toml"));
        fs::write(&config, toml)?;
        let lbd = program("lbd")?;
        let words = [before, &[utf8(&lbd)?, "--config", utf8(&config)?]].concat();
        let process = Process::spawn(namespace, dir, name, words[0], &words[1..])?;
        Ok(Director { namespace: namespace.clone(), dir: dir.to_owned(), process })
    }

    /// Waits for `/readyz` to say yes.
    ///
    /// # Errors
    /// When `lbd` ends, or is not ready in time: with its output.
    pub fn until_ready(&mut self) -> Result<()> {
        let ready = wait::until("lbd ready", START_LIMIT, || {
            if let Ok(Some(status)) = self.process.exited() {
                return Some(Err(anyhow!("lbd ended with {status}")));
            }
            matches!(self.get("/readyz"), Ok((200, _))).then_some(Ok(()))
        });
        ready.and_then(|ended| ended).with_context(|| format!("lbd said:\n{}", self.log()))
    }

    /// What `lbd` has written to its standard output and error.
    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        socket(&self.dir)
    }

    /// Writes a new config and sends SIGHUP. When this returns, the signal is sent, not yet obeyed.
    ///
    /// # Errors
    /// When `lbd` is gone.
    pub fn reload(&self, plan: &LbdPlan) -> Result<()> {
        fs::write(self.dir.join("lbd.toml"), plan.toml(&self.socket()))?;
        self.process.signal(Signal::SIGHUP)
    }

    /// Runs `lbctl ipvsadm` with arguments separated by spaces, and returns what it printed.
    ///
    /// # Errors
    /// When it fails: what it said.
    pub fn ipvsadm(&self, arguments: &str) -> Result<String> {
        let output = self.ipvsadm_output(arguments)?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("ipvsadm {arguments}: {}: {}", output.status, stderr.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `lbctl ipvsadm` with arguments separated by spaces, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn ipvsadm_output(&self, arguments: &str) -> Result<Output> {
        let lbctl = program("lbctl")?;
        let socket = self.socket();
        let mut all = vec!["--socket", utf8(&socket)?, "ipvsadm"];
        all.extend(arguments.split_whitespace());
        self.namespace.output(60, utf8(&lbctl)?, &all)
    }

    /// `lbctl` with these words, yet to be run.
    ///
    /// # Errors
    /// When it was not built.
    pub fn lbctl(&self, words: &[&str]) -> Result<Command> {
        let lbctl = program("lbctl")?;
        let mut command = self.namespace.command(utf8(&lbctl)?);
        command.arg("--socket").arg(self.socket()).args(words);
        Ok(command)
    }

    /// Runs `lbctl` with words separated by spaces, and returns what it printed.
    ///
    /// # Errors
    /// When it fails: what it said.
    pub fn run_lbctl(&self, words: &str) -> Result<String> {
        let output = self.lbctl(&words.split(' ').collect::<Vec<_>>())?.output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "lbctl {words}: {}: {}", output.status, error.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Has commands, JSON with commas between them, done over the API: all at one moment, or none.
    ///
    /// # Errors
    /// When one is refused.
    pub fn commands(&self, commands: &str) -> Result<()> {
        let mut stream = UnixStream::connect(self.socket())?;
        let body = format!("{{\"commands\":[{commands}],\"on_error\":\"rollback\"}}");
        write!(
            stream,
            "POST /v1/commands HTTP/1.1\r\nhost: lb\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"failed\":[]"), "{answer}");
        Ok(())
    }

    /// The metrics page.
    ///
    /// # Errors
    /// When it is not served, or is no Prometheus text.
    pub fn metrics(&self) -> Result<Metrics> {
        match self.get("/metrics")? {
            (200, text) => Metrics::parse(&text),
            (status, text) => bail!("/metrics: {status} {text}"),
        }
    }

    /// Waits until the metrics say so: what they count is done by other threads, which write it down when it is done.
    ///
    /// # Errors
    /// Names `what`, when they do not.
    pub fn until_metrics(&self, what: &str, mut holds: impl FnMut(&Metrics) -> bool) -> Result<()> {
        wait::until(what, wait::PATIENCE, || self.metrics().ok().filter(&mut holds).map(drop))
    }

    /// Fetches a page of the metrics and health server: status and body.
    ///
    /// # Errors
    /// When nothing answers.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        self.namespace.enter(|| http_get(HTTP, path))?
    }

    /// SIGTERM, and the wait for the end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(mut self) -> Result<(ExitStatus, String)> {
        self.process.signal(Signal::SIGTERM)?;
        let status = self.process.wait(STOP_LIMIT).with_context(|| format!("lbd said:\n{}", self.log()))?;
        Ok((status, self.log()))
    }

    /// SIGKILL, and the wait for the end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn kill(mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.wait(STOP_LIMIT).map(drop)
    }

    pub(crate) fn leave_running(self) {
        self.process.leave_running();
    }
}

/// Runs `lbd --config … --forget` on the config of an `lbd` that was [started](Director::start): what it printed, and how it
/// ended.
///
/// # Errors
/// When it cannot be run.
pub fn forget(lab: &Lab) -> Result<Output> {
    let (lbd, config) = (program("lbd")?, lab.dir().join("lbd.toml"));
    lab.director().output(60, utf8(&lbd)?, &["--config", utf8(&config)?, "--forget"])
}

/// Where a lab's `lbd` keeps its connections for the next start.
pub fn flow_memory(dir: &Path) -> PathBuf {
    let name = format!("lbd{}", socket(dir).display()).replace('/', "-");
    Path::new("/dev/shm").join(name)
}

/// Where a lab's `lbd` has its API.
pub fn socket(dir: &Path) -> PathBuf {
    dir.join("api.sock")
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Drops the kernel's copy of what `af_packet` receives, before the kernel can answer it.
///
/// # Errors
/// What nft says.
pub fn silence_kernel(director: &Namespace) -> Result<()> {
    let chain = |link: &str| {
        format!("chain {link} {{ type filter hook ingress device {link} priority 0; policy drop; }}")
    };
    let rules = format!(
        "add table netdev silence\ndelete table netdev silence\n\
         table netdev silence {{ {}\n{}\n }}",
        chain(WAN_LINK),
        chain(LAN_LINK)
    );
    director.run(60, "nft", &[&rules])?;
    Ok(())
}

/// The TAP devices of [`Driver::Tap`].
const WAN_TAP: &str = "tapwan";
const LAN_TAP: &str = "taplan";

/// Bridges the TAP devices to the director's links, without a word from the kernel.
fn bridge_taps(director: &Namespace) -> Result<()> {
    for (index, (tap, link)) in [(WAN_TAP, WAN_LINK), (LAN_TAP, LAN_LINK)].into_iter().enumerate() {
        let bridge = format!("br{index}");
        director.ip(&format!("link add {bridge} type bridge mcast_snooping 0 stp_state 0"))?;
        for silent in [&bridge, tap] {
            director.sysctl(&format!("ipv6/conf/{silent}/disable_ipv6"), "1")?;
        }
        // The device has the port's own address, and what is for that a bridge would give to the kernel.
        director.ip(&format!("link set {tap} address 02:00:00:00:00:{index:02x}"))?;
        for part in [tap, link] {
            director.ip(&format!("link set {part} master {bridge} up"))?;
        }
        // The kernel has the twins' addresses and would answer for them here too.
        director.ip(&format!("link set {bridge} arp off up"))?;
    }
    Ok(())
}

/// A request without keep-alive: the body is what comes until the end.
fn http_get(server: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&server, wait::PATIENCE)?;
    stream.set_read_timeout(Some(wait::PATIENCE))?;
    // In one piece, see `KeptOpen::ask`.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse_answer(&String::from_utf8_lossy(&answer))
        .with_context(|| format!("{server}{path}: not an HTTP answer that this reads"))
}

/// Status and body; a chunked body is put together.
fn parse_answer(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Some((status, body.to_owned()));
    }
    let mut whole = String::new();
    let mut rest = body;
    loop {
        let (length, after) = rest.split_once("\r\n")?;
        let length = usize::from_str_radix(length, 16).ok()?;
        if length == 0 {
            return Some((status, whole));
        }
        whole.push_str(after.get(..length)?);
        rest = after.get(length + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_and_chunked() {
        let whole = "HTTP/1.1 503 Service Unavailable\r\nX: y\r\n\r\nnot yet";
        assert_eq!(parse_answer(whole), Some((503, "not yet".to_owned())));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse_answer(chunked), Some((200, "abcde".to_owned())));
    }
}
