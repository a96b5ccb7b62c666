//! A program that runs in a namespace until it is told to stop, with its output in a file.

use std::fs::{self, File};
use std::marker::PhantomData;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::namespace::Namespace;
use crate::wait;

/// A running program; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Option<Child>,
    log: PathBuf,
}

impl Process {
    /// Starts `program` in the namespace; its output goes to `<dir>/<name>.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(
        namespace: &Namespace,
        dir: &Path,
        name: &str,
        program: &str,
        arguments: &[&str],
    ) -> Result<Process> {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let child = namespace
            .command_with_sys(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // A group of its own: Ctrl-C reaches the lab alone, which then takes things down in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        Ok(Process { name: name.to_owned(), child: Some(child), log })
    }

    /// Its process id (`ip netns exec` becomes the program).
    pub fn pid(&self) -> Option<Pid> {
        let id = self.child.as_ref()?.id();
        i32::try_from(id).ok().map(Pid::from_raw)
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// How it ended; `None` while it runs.
    ///
    /// # Errors
    /// When it was waited for already.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        let child = self.child.as_mut().with_context(|| format!("{} was waited for already", self.name))?;
        Ok(child.try_wait()?)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} is gone", self.name))?;
        kill(pid, signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `limit`; it is left running.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("end of {}", self.name);
        wait::until(&what, limit, || self.exited().transpose())?
    }

    /// Stops one of its threads, by name, until the value is dropped; the others run on.
    ///
    /// # Errors
    /// When there is no such thread, or it cannot be traced.
    pub fn freeze(&self, thread: &str) -> Result<Frozen> {
        let pid = self.pid().with_context(|| format!("{} is gone", self.name))?;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            if fs::read_to_string(task.path().join("comm"))?.trim() != thread {
                continue;
            }
            let id = Pid::from_raw(task.file_name().to_string_lossy().parse()?);
            ptrace::seize(id, ptrace::Options::empty()).context("tracing it")?;
            let frozen = Frozen { thread: id, _of_this_thread: PhantomData };
            ptrace::interrupt(id).context("stopping it")?;
            waitpid(id, Some(WaitPidFlag::__WALL))?;
            return Ok(frozen);
        }
        bail!("{} has no thread {thread}", self.name)
    }

    /// Lets it run on after this program ends.
    pub(crate) fn leave_running(mut self) {
        self.child = None;
    }
}

/// A thread that stands still; dropping it lets it go on. Whoever stopped it must let it go.
#[derive(Debug)]
pub struct Frozen {
    thread: Pid,
    _of_this_thread: PhantomData<*const ()>,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _gone = ptrace::detach(self.thread, None);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ended_already = child.kill();
            let _status = child.wait();
        }
    }
}
