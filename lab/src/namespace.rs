//! One network namespace: made, entered, and used to run programs in.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::{Command, Output};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

/// A named network namespace. It stays until [`crate::cleanup::remove`] takes the whole lab away.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    role: String,
}

impl Namespace {
    /// Makes the namespace, with its loopback up and no duplicate detection of IPv6 addresses: they are tentative for a moment all the same,
    /// but those that are added with `nodad`.
    ///
    /// # Errors
    /// What `ip netns add` says, for example without root.
    pub(crate) fn create(name: String, role: &str) -> Result<Namespace> {
        ip(&["netns", "add", &name])?;
        let namespace = Namespace { name, role: role.to_owned() };
        namespace.ip("link set lo up")?;
        for (key, value) in [
            ("ipv4/ip_forward", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
        ] {
            namespace.sysctl(key, value)?;
        }
        Ok(namespace)
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

    /// Writes `/proc/sys/net/<key>` of this namespace.
    ///
    /// # Errors
    /// The kernel's, with the key named.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.enter(|| fs::write(format!("/proc/sys/net/{key}"), value))?
            .with_context(|| format!("{}: net.{} = {value}", self.role, key.replace('/', ".")))
    }

    /// A command that will run in this namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a program to its end, within `limit_secs`, and returns what it printed, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be started or takes too long.
    pub fn output(&self, limit_secs: u32, program: &str, arguments: &[&str]) -> Result<Output> {
        let output = self
            .command("timeout")
            .args(["-k", "2", &limit_secs.to_string(), program])
            .args(arguments)
            .output()
            .with_context(|| format!("{}: {program}", self.role))?;
        if output.status.code() == Some(124) {
            bail!("{}: {program} {}: took more than {limit_secs} s", self.role, arguments.join(" "));
        }
        Ok(output)
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

/// Runs `ip` and returns what it printed.
fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(arguments).output().context("ip (package iproute2)")?;
    checked(&format!("ip {}", arguments.join(" ")), &output)
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
