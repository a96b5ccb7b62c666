//! One network namespace: made, entered, and used to run programs in.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A named network namespace. It stays until [`crate::cleanup::remove`] takes the whole lab away.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    role: String,
}

impl Namespace {
    /// Makes namespaces, given by name and role. Their loopbacks are down. There is no duplicate detection of IPv6 addresses: they are
    /// tentative for a moment all the same, but those that are added with `nodad`.
    ///
    /// # Errors
    /// What `ip netns add` says, for example without root.
    pub(crate) fn create_all(names: impl Iterator<Item = (String, String)>) -> Result<Vec<Namespace>> {
        let all: Vec<Namespace> = names.map(|(name, role)| Namespace { name, role }).collect();
        ip_batch(
            &[],
            &all.iter().map(|namespace| format!("netns add {}\n", namespace.name)).collect::<String>(),
        )?;
        for namespace in &all {
            namespace.sysctls(&[
                ("ipv4/ip_forward", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/default/accept_ra", "0"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
            ])?;
        }
        Ok(all)
    }

    /// Its name, for `ip netns exec NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is in the lab: `client`, `director`, `s1` …
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Runs `ip` on this namespace with arguments separated by spaces.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split_whitespace());
        ip(&all)
    }

    /// Runs `ip` once for several commands, one a line, up to the first that fails. It prints details (`-d`).
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip_batch(&self, lines: &str) -> Result<String> {
        ip_batch(&["-d", "-n", &self.name], lines)
    }

    /// The MAC address of an interface of this namespace.
    ///
    /// # Errors
    /// What `ip` says, and what is no such address.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let text = self.ip(&format!("link show {interface}"))?;
        let mac = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
        let mac = mac.with_context(|| format!("{interface} has no MAC address"))?;
        let bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
        bytes.try_into().map_err(|_| anyhow!("{mac} is no MAC address"))
    }

    /// Writes `/proc/sys/net/<key>` of this namespace.
    ///
    /// # Errors
    /// The kernel's, with the key named.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.sysctls(&[(key, value)])
    }

    /// The same for several.
    ///
    /// # Errors
    /// Those of the first that fails.
    pub fn sysctls(&self, values: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            values.iter().try_for_each(|(key, value)| {
                fs::write(format!("/proc/sys/net/{key}"), value)
                    .with_context(|| format!("{}: net.{} = {value}", self.role, key.replace('/', ".")))
            })
        })?
    }

    /// A command that will run in this namespace. What `/sys` tells it of links is not of this namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg(program);
        command
    }

    /// The same, with the namespace's own `/sys`, which takes a while to be made.
    pub fn command_with_sys(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a program to its end, within `limit_secs`, and returns what it printed, whatever its exit code. What `/sys` tells it of links
    /// is not of this namespace.
    ///
    /// # Errors
    /// When it cannot be started or takes too long.
    pub fn output(&self, limit_secs: u32, program: &str, arguments: &[&str]) -> Result<Output> {
        let started = self.enter(|| {
            // A child is where the thread is that starts it.
            Command::new(program)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .process_group(0)
                .spawn()
        })?;
        let ended = started.and_then(|child| within(child, Duration::from_secs(limit_secs.into())));
        match ended.with_context(|| format!("{}: {program}", self.role))? {
            Some(output) => Ok(output),
            None => {
                bail!("{}: {program} {}: took more than {limit_secs} s", self.role, arguments.join(" "))
            }
        }
    }

    /// Runs a program to its end, within `limit_secs`, and returns its standard output.
    ///
    /// # Errors
    /// When it fails: the command line and what it said.
    pub fn run(&self, limit_secs: u32, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.output(limit_secs, program, arguments)?;
        checked(&format!("{}: {program} {}", self.role, arguments.join(" ")), &output)
    }

    /// Calls `work` on a thread of its own that is inside this namespace: sockets opened there belong to it.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or `work` panicked.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| self.join_current_thread().map(|()| work()));
            thread.join().map_err(|_panic| anyhow!("{}: the work in the namespace panicked", self.role))?
        })
    }

    /// Moves the calling thread, and only it, into this namespace.
    ///
    /// # Errors
    /// When the namespace is gone, or without root.
    pub(crate) fn join_current_thread(&self) -> Result<()> {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).with_context(|| format!("opening {path}"))?;
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {path}"))
    }
}

/// The end of a program and what it printed. When it takes longer than `limit` it is killed with all that it started: `None`.
fn within(child: Child, limit: Duration) -> io::Result<Option<Output>> {
    let group = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    let (ended, is_ended) = mpsc::channel::<()>();
    let (output, is_late) = std::thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let is_late = is_ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if is_late {
                let _gone_already = killpg(group, Signal::SIGKILL);
            }
            is_late
        });
        let output = child.wait_with_output();
        drop(ended);
        (output, watch.join())
    });
    let is_late = is_late.map_err(|_panic| io::Error::other("the watch over a program panicked"))?;
    output.map(|output| (!is_late).then_some(output))
}

/// Runs `ip` and returns what it printed.
fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(arguments).output().context("ip (package iproute2)")?;
    checked(&format!("ip {}", arguments.join(" ")), &output)
}

/// Runs `ip` once for several commands, one a line, up to the first that fails.
pub(crate) fn ip_batch(options: &[&str], lines: &str) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(options).args(["-batch", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("ip (package iproute2)")?;
    // Where it has ended before it has read all of them it says why.
    let _ended_early = child.stdin.take().context("its input")?.write_all(lines.as_bytes());
    checked(&format!("ip {} -batch of\n{lines}", options.join(" ")), &child.wait_with_output()?)
}

/// The standard output of a program that succeeded.
fn checked(what: &str, output: &Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{what}: {}: {} {}", output.status, stderr.trim(), stdout.trim());
    }
    Ok(stdout.into_owned())
}
