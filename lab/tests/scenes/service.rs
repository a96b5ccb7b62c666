//! Goal: `lbd` under systemd does what its unit promises, with no more than its unit allows.
//! Method: this test is the service manager: a notify socket of its own, the unit's capabilities by `setpriv`, its system
//! calls as `strace` sees them. Where a tool is not installed that one test says so and proves nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::server::Nginx;
use lab::topology::VIP;
use lab::{Director, Driver, Lab, LbdPlan, PATIENCE, client, director, until};
use nix::sys::signal::Signal;

/// Four ticks are due in it.
const WATCHDOG: Duration = Duration::from_millis(200);

const UNIT: &str = include_str!("../../../packaging/lbd.service.in");

/// The value of a key that stands in the unit once.
fn unit(key: &str) -> Result<&'static str> {
    let value = |line: &'static str| line.strip_prefix(key)?.strip_prefix('=');
    UNIT.lines().find_map(value).with_context(|| format!("the unit has no {key}"))
}

fn is_installed(tool: &str) -> bool {
    let is_there = Command::new(tool).arg("--version").output().is_ok();
    if !is_there {
        eprintln!("{tool} is not installed: nothing is proven");
    }
    is_there
}

/// The service manager's end of the notify socket.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(at: &Path) -> Result<Manager> {
        let socket = UnixDatagram::bind(at)?;
        socket.set_nonblocking(true)?;
        Ok(Manager(socket))
    }

    /// What was told since the last time, one line each.
    fn told(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut message = [0; 4096];
        loop {
            match self.0.recv(&mut message) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&message[..length]);
                    lines.extend(text.lines().map(str::to_owned));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What is told until `line` is.
    fn until(&self, line: &str) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        until(line, PATIENCE, || {
            lines.extend(self.told().ok()?);
            lines.iter().any(|told| told == line).then_some(())
        })
        .with_context(|| format!("told so far: {lines:?}"))?;
        Ok(lines)
    }
}

#[test]
fn the_service_manager_is_told_of_start_reload_stall_drain_and_stop() -> Result<()> {
    let lab = Lab::new()?;
    let at = lab.dir().join("notify.sock");
    let manager = Manager::listen(&at)?;
    let plan = LbdPlan { drain_secs: 600, ..LbdPlan::default() };
    let socket = format!("NOTIFY_SOCKET={}", at.display());
    let watchdog = format!("WATCHDOG_USEC={}", WATCHDOG.as_micros());
    let toml = plan.toml(&director::socket(lab.dir()));
    let mut lbd = Director::spawn_under(&lab, &toml, "lbd", &["env", &socket, &watchdog])?;
    lbd.until_ready()?;
    let told = manager.until("WATCHDOG=1")?;
    assert_eq!(told[0], "READY=1", "{told:?}");
    manager.until("WATCHDOG=1")?;

    lbd.reload(&plan)?;
    let told = manager.until("READY=1")?;
    assert!(told.contains(&"RELOADING=1".to_owned()), "{told:?}");

    // Not while it adopts the tables of the reload: one that is frozen in the allocator holds up the others too.
    manager.until("WATCHDOG=1")?;
    manager.until("WATCHDOG=1")?;
    let frozen = lbd.process().freeze("worker 0")?;
    let mut answer = String::new();
    until("a worker that stands still", PATIENCE, || {
        // As a service manager does: whoever tells it more than it has room for has to wait.
        manager.told().ok()?;
        let ready = lbd.get("/readyz");
        answer = format!("{ready:?}");
        matches!(ready, Ok((503, said)) if said.contains("stands still")).then_some(())
    })
    .with_context(|| format!("/readyz: {answer}; log: {}", lbd.log()))?;
    // What was said before may still be on its way.
    until("the watchdog is not fed while a worker stands still", PATIENCE, || {
        std::thread::sleep(WATCHDOG * 2);
        manager.told().is_ok_and(|told| told.is_empty()).then_some(())
    })?;
    drop(frozen);
    manager.until("WATCHDOG=1")?;
    until("ready again", PATIENCE, || matches!(lbd.get("/readyz"), Ok((200, _))).then_some(()))?;

    // A connection keeps it draining.
    assert!(client::ask(lab.client(), (VIP, lab::server::ECHO_PORT).into(), b"?").is_err(), "no server runs");
    lbd.process().signal(Signal::SIGTERM)?;
    let told = manager.until("EXTEND_TIMEOUT_USEC=20000000")?;
    assert!(told.contains(&"STOPPING=1".to_owned()), "{told:?}");
    manager.until("WATCHDOG=1")?;
    let (status, log) = lbd.stop()?;
    assert!(status.success(), "{status}: {log}");
    assert!(!manager.told()?.contains(&"READY=1".to_owned()));
    Ok(())
}

fn serves_with(capabilities: &BTreeSet<&str>, driver: Driver) -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start_all(&lab)?;
    let plan = LbdPlan { driver, ..LbdPlan::default() };
    if driver == Driver::AfPacket {
        director::silence_kernel(lab.director())?;
    }
    // The unit's LimitMEMLOCK=; where it cannot be had the capability that makes up for it.
    let unlimited = ["prlimit", "--memlock=unlimited"];
    let is_limited = lab.director().run(60, "prlimit", &[unlimited[1], "true"]).is_err();
    let set: Vec<&str> = capabilities.iter().copied().chain(is_limited.then_some("ipc_lock")).collect();
    let bounding = format!("--bounding-set=-all,+{}", set.join(",+"));
    let restricted = ["setpriv", &bounding, "--no-new-privs"];
    let before = if is_limited { restricted.to_vec() } else { [&unlimited[..], &restricted].concat() };
    let mut lbd = Director::spawn_under(&lab, &plan.toml(&director::socket(lab.dir())), "lbd", &before)?;
    lbd.until_ready()?;
    client::curl(lab.client(), &client::url(VIP.into(), 80, "/"))?;
    let pid = lbd.process().pid().context("it runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no CapEff")?;
    let effective = u64::from_str_radix(bits.trim(), 16)?;
    assert_eq!(effective.count_ones() as usize, set.len(), "{bits}");
    let (status, log) = lbd.stop()?;
    assert!(status.success(), "{status}: {log}");
    Ok(())
}

/// As `setpriv` writes them.
fn capabilities() -> Result<Vec<String>> {
    let names = unit("CapabilityBoundingSet")?.split(' ');
    Ok(names.map(|name| name.trim_start_matches("CAP_").to_ascii_lowercase()).collect())
}

#[test]
fn without_af_xdp_ports_the_units_capabilities_are_enough_but_for_sys_admin() -> Result<()> {
    let names = capabilities()?;
    let few = names.iter().map(String::as_str).filter(|name| *name != "sys_admin").collect();
    serves_with(&few, Driver::AfPacket)
}

#[test]
fn the_units_capabilities_are_enough_for_af_xdp_and_none_is_too_many() -> Result<()> {
    let names = capabilities()?;
    let all: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    serves_with(&all, Driver::AfXdp)?;
    for name in &all {
        let mut fewer = all.clone();
        fewer.remove(name);
        assert!(serves_with(&fewer, Driver::AfXdp).is_err(), "it serves without {name} too");
    }
    Ok(())
}

#[test]
fn the_unit_is_one_that_systemd_takes() -> Result<()> {
    if !is_installed("systemd-analyze") {
        return Ok(());
    }
    let directory = Lab::new()?;
    let file = directory.dir().join("lbd.service");
    let program = director::program("lbd")?;
    fs::write(&file, UNIT.replace("@PREFIX@/sbin/lbd", &program.to_string_lossy()))?;
    let output = Command::new("systemd-analyze").arg("verify").arg(&file).output()?;
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    Ok(())
}

/// The system calls of a set of systemd's, and of the sets in it.
fn system_calls(set: &str, into: &mut BTreeSet<String>) -> Result<()> {
    let output = Command::new("systemd-analyze").args(["syscall-filter", set]).output()?;
    if !output.status.success() {
        bail!("{set}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    for word in text.lines().skip(1).map(str::trim).filter(|word| !word.is_empty() && !word.starts_with('#'))
    {
        if word.starts_with('@') { system_calls(word, into)? } else { into.extend([word.to_owned()]) }
    }
    Ok(())
}

#[test]
fn every_system_call_of_a_life_is_one_that_the_unit_allows() -> Result<()> {
    if !is_installed("systemd-analyze") || !is_installed("strace") {
        return Ok(());
    }
    let mut allowed = BTreeSet::new();
    for word in unit("SystemCallFilter")?.split(' ') {
        if word.starts_with('@') {
            system_calls(word, &mut allowed)?
        } else {
            allowed.extend([word.to_owned()])
        }
    }
    let lab = Lab::new()?;
    let trace = lab.dir().join("strace");
    let path = trace.to_string_lossy().into_owned();
    let before =
        ["strace", "--follow-forks", "--seccomp-bpf", "--quiet=all", "--output", &path, "--trace=all"];
    let toml = LbdPlan::default().toml(&director::socket(lab.dir()));
    let mut lbd = Director::spawn_under(&lab, &toml, "lbd", &before)?;
    lbd.until_ready()?;
    lbd.ipvsadm("-A -t 192.0.2.10:8081 -s wlc")?;
    lbd.reload(&LbdPlan::default())?;
    lbd.metrics()?;
    let pid: i32 =
        fs::read_to_string(format!("/proc/{}/task/{0}/children", lbd.process().pid().context("it runs")?))?
            .trim()
            .parse()?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM)?;
    lbd.process().wait(PATIENCE)?;
    let name = |line: &str| Some(line.split_once(' ')?.1.trim_start().split_once('(')?.0.to_owned());
    let trace = fs::read_to_string(&trace)?;
    let made: BTreeSet<String> = trace
        .lines()
        .filter_map(name)
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
        .collect();
    assert!(made.contains("bpf") && made.contains("sched_setaffinity"), "{made:?}");
    // DPDK asks for the I/O ports of old virtio devices and goes on without; that would need CAP_SYS_RAWIO too.
    let refused: Vec<_> = made.difference(&allowed).filter(|name| *name != "iopl").collect();
    assert!(refused.is_empty(), "{refused:?}");
    Ok(())
}
