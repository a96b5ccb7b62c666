//! The kernel's side of a Linux twin: a TAP device, which is there as long as its file is open, or stays for the next
//! process with its addresses, routes and neighbours. And the other files and sockets of this crate that the standard
//! library does not open.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_ulong};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use lb_core::tables::Mac;

use crate::config::FlowMemory;
use crate::link;

/// Longest name of a network interface, in bytes.
pub(crate) const LONGEST_NAME: usize = libc::IFNAMSIZ - 1;

/// Makes the TAP device `name` with this MAC address (all zero: one of the kernel's choice) and MTU, up. Reading and writing its file never wait; each
/// read and write is one Ethernet frame, without a header of TUN's own and with its checksums filled in.
///
/// With a `mark` the device stays when its file is closed, and one that is there already with the mark of an lbd (its alias, in
/// the kernel's words) is taken, if no process has its file: with its mark, be that another one.
///
/// Source of the interface: the kernel's `Documentation/networking/tuntap.rst`.
///
/// # Errors
/// What the kernel says: no `/dev/net/tun`, no privilege, a name that is taken.
pub(crate) fn open(name: &str, mac: Mac, mtu: u16, mark: Option<&str>) -> io::Result<File> {
    let is_lbds = |has: &str| Some(has) == mark || FlowMemory::of_mark(has).is_some();
    let is_kept = mark.is_some() && link::mark_of(name)?.as_deref().is_some_and(is_lbds);
    let tap = attach(name, is_kept)?;
    if let Some(mark) = mark.filter(|_| !is_kept) {
        // In this order, so that none stays without its mark.
        link::set_mark(name, mark)?;
        persist(&tap, true)?;
    }
    let socket = inet_socket()?;
    let socket = socket.as_raw_fd();
    // What is right already is left alone: a change of the MAC address would have Linux forget all neighbours.
    if mac != Mac::default() && mac != mac_of(socket, name)? {
        let mut request = named(name)?;
        // SAFETY: `sockaddr` and a hardware address are plain bytes.
        unsafe {
            request.ifr_ifru.ifru_hwaddr.sa_family = libc::ARPHRD_ETHER;
            for (to, from) in request.ifr_ifru.ifru_hwaddr.sa_data.iter_mut().zip(mac) {
                *to = from as libc::c_char;
            }
        }
        control(socket, libc::SIOCSIFHWADDR, &mut request)?;
    }
    let mut request = named(name)?;
    request.ifr_ifru.ifru_mtu = c_int::from(mtu);
    control(socket, libc::SIOCSIFMTU, &mut request)?;
    let mut request = named(name)?;
    control(socket, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the kernel has just written the flags.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as i16 };
    control(socket, libc::SIOCSIFFLAGS, &mut request)?;
    Ok(tap)
}

/// Removes a device that stays by itself; an error when a process has its file.
pub(crate) fn remove(name: &str) -> io::Result<()> {
    persist(&attach(name, true)?, false)
}

/// Whether a process has the file of a device that stays by itself.
pub(crate) fn is_held(name: &str) -> io::Result<bool> {
    match attach(name, true) {
        Ok(_) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(true),
        Err(error) => Err(error),
    }
}

/// The file of a device: of a new one, or of one that is there and that no process has.
fn attach(name: &str, is_there: bool) -> io::Result<File> {
    let tap = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    let mut request = named(name)?;
    // IFF_TUN_EXCL: never attach to a device that is there already.
    let new = if is_there { 0 } else { libc::IFF_TUN_EXCL };
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | new) as i16;
    control(tap.as_raw_fd(), libc::TUNSETIFF, &mut request)?;
    Ok(tap)
}

fn persist(tap: &File, stays: bool) -> io::Result<()> {
    // SAFETY: the argument is a number, no memory is involved.
    match unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST as _, c_ulong::from(stays)) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn mac_of(socket: c_int, name: &str) -> io::Result<Mac> {
    let mut request = named(name)?;
    control(socket, libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: the kernel has just written it.
    let bytes = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    Ok(std::array::from_fn(|i| bytes[i] as u8))
}

/// The MTU of a network interface; an error when there is none.
pub(crate) fn mtu_of(interface: &str) -> io::Result<u32> {
    let mut request = named(interface)?;
    control(inet_socket()?.as_raw_fd(), libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: the kernel has just written it.
    Ok(unsafe { request.ifr_ifru.ifru_mtu }.unsigned_abs())
}

fn named(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: an ifreq is plain bytes, for which zero is valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn control(file: c_int, operation: c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: all operations used here read and write one ifreq at most.
    match unsafe { libc::ioctl(file, operation as _, std::ptr::from_mut(request)) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn inet_socket() -> io::Result<OwnedFd> {
    socket(libc::AF_INET, libc::SOCK_DGRAM, 0)
}

/// A socket to the kernel's routing netlink that never waits.
pub(crate) fn netlink_socket() -> io::Result<File> {
    socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_NONBLOCK, libc::NETLINK_ROUTE).map(File::from)
}

fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved; a new descriptor is ours to own.
    unsafe {
        match libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// A counter in the kernel that wakes who waits for it.
pub(crate) fn event() -> io::Result<File> {
    // SAFETY: no memory is involved; a new descriptor is ours to own.
    unsafe {
        match libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd).into()),
        }
    }
}

/// Waits until one of the two can be read, or `timeout` is over. Returns whether the first one can never be read again: a
/// TAP device that was deleted.
pub(crate) fn wait_readable(files: [BorrowedFd<'_>; 2], timeout: Duration) -> bool {
    let mut polled =
        files.map(|file| libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let milliseconds = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: two entries, as said. A failure (a signal) is a wake-up like any other, and leaves `revents` zero.
    unsafe { libc::poll(polled.as_mut_ptr(), 2, milliseconds) };
    polled[0].revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0
}
