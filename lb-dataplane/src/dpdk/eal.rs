//! DPDK's environment (EAL): started once a process, with what it prints kept back, so that an error is one line.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk_sys as sys;

use super::error_text;
use crate::cpu::CpuSet;
use crate::error::StartError;

/// What the EAL is started with.
pub(crate) struct EalConfig<'a> {
    pub(crate) huge_pages: bool,
    /// For packet buffers and DPDK's own needs, in MiB.
    pub(crate) memory_mb: usize,
    /// PCI devices with their arguments, which are probed at once.
    pub(crate) pci: Vec<&'a str>,
    /// The operator's own.
    pub(crate) arguments: &'a [String],
    /// CPUs of the workers: the EAL's own thread stays off them where it can.
    pub(crate) workers: &'a [u32],
}

/// Arguments that are not the operator's to give, and what decides them.
const DECIDED: &[(&str, &str)] = &[
    ("-l", "dataplane.workers"),
    ("-c", "dataplane.workers"),
    ("--lcores", "dataplane.workers"),
    ("--main-lcore", "dataplane.workers"),
    ("-m", "dataplane.memory_mb"),
    ("--socket-mem", "dataplane.memory_mb"),
    ("--no-huge", "dataplane.huge_pages"),
    ("--in-memory", "dataplane.huge_pages"),
    ("--vdev", "[[port]] device"),
    ("-h", "the help of lbd"),
    ("--help", "the help of lbd"),
    ("-v", "the version of lbd"),
    ("--version", "the version of lbd"),
    ("--proc-type", "lbd"),
];

/// Checks the operator's arguments without starting anything.
pub(crate) fn check_arguments(arguments: &[String]) -> Result<(), StartError> {
    for argument in arguments {
        let name = argument.split('=').next().unwrap_or_default();
        if let Some((_, instead)) = DECIDED.iter().find(|(decided, _)| *decided == name) {
            return Err(StartError::DriverArgument { argument: argument.clone(), instead });
        }
    }
    Ok(())
}

/// The EAL, up. Dropping it ends it.
pub(crate) struct Eal {
    log: Log,
    /// The CPUs that the thread had which started it.
    usable: CpuSet,
}

static WAS_STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    pub(crate) fn start(config: &EalConfig<'_>) -> Result<Eal, StartError> {
        if WAS_STARTED.swap(true, Ordering::SeqCst) {
            return Err(StartError::Twice);
        }
        let mut log = Log::keep_back()?;
        let usable = CpuSet::usable().map_err(|error| StartError::Eal(error.to_string()))?;
        let arguments = arguments(config, &usable);
        let arguments: Vec<CString> =
            arguments.into_iter().map(CString::new).collect::<Result<_, _>>().map_err(|_| {
                StartError::Eal("a zero byte stands in driver_args or in a port's device".to_owned())
            })?;
        // The EAL keeps pointers to its arguments, so that they stay for good.
        let mut pointers: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
        let count = pointers.len() as c_int;
        pointers.push(null_mut());
        let pointers = pointers.leak();
        // Nothing else prints usage and complaints.
        let printed = (!config.arguments.is_empty()).then(Printed::keep_back).flatten();
        // SAFETY: an argument vector as C has it, which stays; the first and only call in this process.
        let outcome = unsafe { sys::rte_eal_init(count, pointers.as_mut_ptr()) };
        let complaint = printed.and_then(|printed| printed.complaint(outcome < 0));
        // The EAL has bound this thread to its own CPU. Threads that it starts stay off the workers' CPUs, where there are others.
        let _ = usable.besides(config.workers).apply();
        if outcome < 0 {
            let _ = usable.apply();
            remove_runtime_directory();
            if let Some(complaint) = complaint {
                return Err(StartError::DriverArguments(complaint));
            }
            return Err(StartError::Eal(log.first_line().unwrap_or_else(super::last_error)));
        }
        Ok(Eal { log, usable })
    }

    /// Starts the driver of a vdev and returns the number of its port.
    ///
    /// # Errors
    /// What the driver printed, in one line.
    pub(crate) fn probe(&mut self, device: &str) -> Result<u16, String> {
        self.log.forget();
        let text = CString::new(device).map_err(|_| "a zero byte stands in it".to_owned())?;
        // SAFETY: the EAL is up; the text ends in a zero byte and is copied.
        let outcome = unsafe { sys::rte_dev_probe(text.as_ptr()) };
        if outcome < 0 {
            return Err(self.reason(outcome));
        }
        self.port_of(device)
    }

    /// The number of the port of a device that was probed: of a PCI device the first, when it has several.
    pub(crate) fn port_of(&mut self, device: &str) -> Result<u16, String> {
        let name = device.split(',').next().unwrap_or_default();
        let name = CString::new(name).map_err(|_| "a zero byte stands in it".to_owned())?;
        let mut port = 0;
        // SAFETY: the EAL is up; the name ends in a zero byte, and DPDK writes one number.
        match unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut port) } {
            0 => Ok(port),
            outcome => Err(self.reason(outcome)),
        }
    }

    /// The text of an error code, and the first line that was printed since the last look.
    pub(crate) fn reason(&mut self, code: i32) -> String {
        match self.log.first_line() {
            // Drivers return a bare -1 for anything, which would read "operation not permitted".
            Some(line) if code == -1 => line,
            Some(line) => format!("{line} ({})", error_text(code)),
            None => error_text(code),
        }
    }

    /// Forgets what was printed up to now.
    pub(crate) fn forget_log(&mut self) {
        self.log.forget();
    }

    /// From now on DPDK's errors go to standard error.
    pub(crate) fn let_log_out(&mut self) {
        self.log.let_out();
    }
}

impl Drop for Eal {
    fn drop(&mut self) {
        // SAFETY: the EAL is up, and ports and pool are gone (order of fields in `Dataplane`).
        unsafe { sys::rte_eal_cleanup() };
        remove_runtime_directory();
        let _ = self.usable.apply();
    }
}

/// Removes the directory that the EAL makes for itself, and the one above it. Only what is empty goes.
fn remove_runtime_directory() {
    // SAFETY: a string of DPDK's own that ends in a zero byte and is never freed.
    let directory = unsafe { CStr::from_ptr(sys::rte_eal_get_runtime_dir()) };
    let directory = Path::new(OsStr::from_bytes(directory.to_bytes()));
    for directory in directory.ancestors().take(2).filter(|path| path.is_absolute()) {
        if std::fs::remove_dir(directory).is_err() {
            return;
        }
    }
}

fn arguments(config: &EalConfig<'_>, usable: &CpuSet) -> Vec<String> {
    let cpu = usable.iter().find(|cpu| !config.workers.contains(cpu)).or_else(|| usable.iter().next());
    let mut arguments = vec![
        "lbd".to_owned(),
        format!("--lcores=0@{}", cpu.unwrap_or(0)),
        "--log-level=error".to_owned(),
        "--no-shconf".to_owned(),
        "--no-telemetry".to_owned(),
        // Names the directory that DPDK makes in any case; with these arguments nothing gets into it.
        "--file-prefix=lb".to_owned(),
    ];
    if config.huge_pages {
        arguments.push("--in-memory".to_owned());
    } else {
        arguments.extend(["--no-huge".to_owned(), "-m".to_owned(), config.memory_mb.to_string()]);
    }
    let is_given =
        |name: &str| config.arguments.iter().any(|argument| argument.split('=').next() == Some(name));
    for device in &config.pci {
        arguments.extend(["-a".to_owned(), (*device).to_owned()]);
    }
    if config.pci.is_empty() && !["--no-pci", "-a", "--allow", "-b", "--block"].into_iter().any(is_given) {
        arguments.push("--no-pci".to_owned());
    }
    arguments.extend(config.arguments.iter().cloned());
    arguments
}

/// What C's library prints of arguments that it does not know, and DPDK of those that there are: in a file without a name, until this is
/// dropped.
struct Printed {
    file: File,
    /// Standard output and standard error.
    streams: [(OwnedFd, c_int); 2],
}

impl Printed {
    /// `None`: it goes where it goes.
    fn keep_back() -> Option<Printed> {
        // SAFETY: the name ends in a zero byte; new descriptors are ours to own, and the two that are replaced are put back.
        unsafe {
            let file = match libc::memfd_create(c"printed".as_ptr(), libc::MFD_CLOEXEC) {
                -1 => return None,
                fd => File::from_raw_fd(fd),
            };
            let copy = |fd| match libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) {
                -1 => None,
                copy => Some((OwnedFd::from_raw_fd(copy), fd)),
            };
            let streams = [copy(libc::STDOUT_FILENO)?, copy(libc::STDERR_FILENO)?];
            libc::fflush(null_mut());
            for (_, fd) in &streams {
                libc::dup2(file.as_raw_fd(), *fd);
            }
            Some(Printed { file, streams })
        }
    }

    /// The first complaint about an argument. Where it did not fail, all is printed after all.
    fn complaint(self, has_failed: bool) -> Option<String> {
        // SAFETY: all streams of C's library, which writes what they hold.
        unsafe { libc::fflush(null_mut()) };
        let len = self.file.metadata().map_or(0, |file| file.len());
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let read = self.file.read_at(&mut bytes, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
        drop(self);
        if has_failed {
            // The program's name stands before it, which is the first argument.
            return text.lines().find_map(|line| line.strip_prefix("lbd: ")).map(str::to_owned);
        }
        eprint!("{text}");
        None
    }
}

impl Drop for Printed {
    fn drop(&mut self) {
        for (copy, fd) in &self.streams {
            // SAFETY: both descriptors are open.
            unsafe { libc::dup2(copy.as_raw_fd(), *fd) };
        }
    }
}

/// DPDK's log, in a file without a name.
struct Log {
    file: File,
    /// The same, as C's library writes to it.
    stream: *mut libc::FILE,
    seen: u64,
}

// SAFETY: C's streams lock themselves, and this one is closed by nobody.
unsafe impl Send for Log {}
// SAFETY: as above; the methods that change anything take `&mut self`.
unsafe impl Sync for Log {}

impl Log {
    fn keep_back() -> Result<Log, StartError> {
        let failed = |what: &str| StartError::Eal(format!("{what}: {}", std::io::Error::last_os_error()));
        // SAFETY: the name ends in a zero byte; a new descriptor is ours to own.
        let file = unsafe {
            match libc::memfd_create(c"dpdk log".as_ptr(), libc::MFD_CLOEXEC) {
                -1 => return Err(failed("no file for the log")),
                fd => File::from_raw_fd(fd),
            }
        };
        let stream = open_stream(&file).ok_or_else(|| failed("no stream for the log"))?;
        // SAFETY: the stream stays open for good.
        unsafe {
            sys::rte_openlog_stream(stream.cast());
            for name in [c"libbpf_set_print", c"libxdp_set_print"] {
                silence(name);
            }
        }
        Ok(Log { file, stream, seen: 0 })
    }

    /// The first line since the last look, without its newline.
    fn first_line(&mut self) -> Option<String> {
        let text = self.new_text();
        text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    }

    fn forget(&mut self) {
        self.new_text();
    }

    fn new_text(&mut self) -> String {
        // SAFETY: the stream is open.
        unsafe { libc::fflush(self.stream) };
        let end = self.file.metadata().map_or(self.seen, |metadata| metadata.len());
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(self.seen)).unwrap_or(0)];
        let read = self.file.read_at(&mut bytes, self.seen).unwrap_or(0);
        self.seen += read as u64;
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    }

    fn let_out(&mut self) {
        // SAFETY: a descriptor is copied; the stream made of it stays open for good.
        unsafe {
            let fd = libc::dup(libc::STDERR_FILENO);
            if fd >= 0
                && let Some(stream) = open_stream(&File::from_raw_fd(fd))
            {
                sys::rte_openlog_stream(stream.cast());
            }
        }
    }
}

/// A line-buffered stream that writes to (a copy of) the file.
fn open_stream(file: &File) -> Option<*mut libc::FILE> {
    let fd = file.try_clone().ok()?.into_raw_fd();
    // SAFETY: the descriptor is ours and goes over to the stream; the mode ends in a zero byte.
    unsafe {
        let stream = libc::fdopen(fd, c"a".as_ptr());
        if stream.is_null() {
            libc::close(fd);
            return None;
        }
        libc::setvbuf(stream, null_mut(), libc::_IOLBF, 0);
        Some(stream)
    }
}

/// Has libbpf or libxdp print nothing: they print to standard error whatever DPDK's log is.
///
/// # Safety
/// `name` is that of a function that takes a print function, or null for none, and returns a pointer.
unsafe fn silence(name: &CStr) {
    type SetPrint = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
    // SAFETY: found by name in this process, when this DPDK uses that library; the caller vouches for its type.
    unsafe {
        let function = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
        if !function.is_null() {
            std::mem::transmute::<*mut c_void, SetPrint>(function)(null_mut());
        }
    }
}
