//! Very many TCP connections at once, all open, each able to show that it is still what it was.
//!
//! [`Echo`] on a real server sends back what it gets; a [`Crowd`] of clients says something on each connection and waits for it
//! to come back. Each of their threads works over one epoll and has a table of open files of its own, as a process
//! may have fewer than all these connections take.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, connect, getsockopt, listen,
    setsockopt, socket, sockopt,
};

use crate::namespace::Namespace;

/// The port of the echo.
pub const CROWD_PORT: u16 = 7777;
/// Connections of one client thread.
const OF_A_CLIENT: usize = 15_000;
/// Connections that an echo's thread is meant for: they are not dealt out evenly.
const OF_AN_ECHO: usize = 8_000;
/// Connections that a client thread is making at a time.
const AT_ONCE: usize = 128;
/// Connections of a thread that say something at once: not so many as overflow the queues on the way, before a pause.
const WITHOUT_PAUSE: usize = 32;
const PAUSE: Duration = Duration::from_millis(4);
/// As many words of a thread wait for their answers at a time, for the same reason.
const UNDER_WAY: usize = 64;
/// Bytes that a client says: its number and the round.
const WORD: usize = 8;
const EVENTS: usize = 1024;
/// Given to those that are not to answer.
const A_MOMENT: Duration = Duration::from_secs(1);
const FIRST_ROUND: Duration = Duration::from_secs(100);

/// A TCP server that sends back what it gets.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// Starts it in the namespace, on [`CROWD_PORT`], for about so many connections.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(namespace: &Namespace, connections: usize) -> Result<Echo> {
        let mut echo = Echo { stop: Arc::default(), threads: Vec::new() };
        for _ in 0..connections.div_ceil(OF_AN_ECHO) {
            let listener = namespace.enter(listener)??;
            let stopped = Arc::clone(&echo.stop);
            let thread = with_own_files("crowd-echo", move || {
                if let Err(error) = serve(&listener, &stopped) {
                    eprintln!("lab: the crowd's echo has ended: {error}");
                }
            })?;
            echo.threads.push(thread);
        }
        Ok(echo)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

/// Starts a thread with a table of open files of its own, a copy of the one of now. Returns when it has that: a pipe
/// that is made afterwards is closed when its users close it.
fn with_own_files(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let (ready, is_ready) = mpsc::channel();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let outcome = unshare(CloneFlags::CLONE_FILES);
        let is_apart = outcome.is_ok();
        // Who started it waits for this.
        if ready.send(outcome).is_ok() && is_apart {
            work();
        }
    })?;
    is_ready.recv()??;
    Ok(thread)
}

/// One of several on the same port.
fn listener() -> Result<TcpListener> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Inet6, SockType::Stream, flags, None)?;
    setsockopt(&listener, sockopt::ReusePort, &true)?;
    let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, CROWD_PORT, 0, 0);
    bind(listener.as_raw_fd(), &SockaddrIn6::from(any))?;
    listen(&listener, Backlog::new(4096)?)?;
    Ok(listener.into())
}

fn serve(listener: &TcpListener, stop: &AtomicBool) -> nix::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, u64::MAX))?;
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let mut events = vec![EpollEvent::empty(); EVENTS];
    while !stop.load(Ordering::Relaxed) {
        let Ok(count) = epoll.wait(&mut events, EpollTimeout::from(10_u8)) else { continue };
        for event in &events[..count] {
            if event.data() == u64::MAX {
                while let Ok((stream, _)) = listener.accept() {
                    let number = streams.len() as u64;
                    let is_kept = stream.set_nonblocking(true).is_ok()
                        && epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number)).is_ok();
                    streams.push(is_kept.then_some(stream));
                }
                continue;
            }
            let Some(place) = streams.get_mut(event.data() as usize) else { continue };
            let Some(stream) = place else { continue };
            let mut bytes = [0; 256];
            match stream.read(&mut bytes) {
                Ok(length @ 1..) if stream.write_all(&bytes[..length]).is_ok() => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => *place = None,
            }
        }
    }
    Ok(())
}

/// Open connections to one virtual service.
#[derive(Debug)]
pub struct Crowd {
    clients: Vec<Client>,
    count: usize,
}

/// A thread with its share of them. It ends when nobody has commands for it any more.
#[derive(Debug)]
struct Client {
    commands: mpsc::Sender<Command>,
    replies: mpsc::Receiver<Result<Round>>,
}

#[derive(Clone, Copy, Debug)]
enum Command {
    Say,
    /// Both at a time, for so long at most.
    Talk(Duration),
    /// How long at most, and for how many answers: a second after these it ends.
    Listen(Duration, usize),
}

/// How a round ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Connections that answered with what was said on them.
    pub answered: usize,
    /// What happened to the others: at most some of them.
    pub problems: Vec<String>,
}

impl Crowd {
    /// Opens `count` connections from the client's namespace, from as many addresses of 192.0.2.0/24 from .101 on as it
    /// takes, and has each answer. One in a hundred may fail in that, as the lab is short of everything while they begin; it is
    /// no part of the crowd then.
    ///
    /// # Errors
    /// What the first that fails says; when they are not open in time.
    pub fn open(namespace: &Namespace, service: SocketAddrV4, count: usize) -> Result<Crowd> {
        namespace.sysctl("ipv4/ip_local_port_range", "10000 65000")?;
        for number in 0..count.div_ceil(OF_A_CLIENT) {
            namespace.ip(&format!("addr add {}/24 dev eth0", address(number)))?;
        }
        let mut clients = Vec::new();
        for (number, first) in (0..count).step_by(OF_A_CLIENT).enumerate() {
            let (namespace, share) = (namespace.clone(), OF_A_CLIENT.min(count - first));
            let ((commands, orders), (answers, replies)) = (mpsc::channel(), mpsc::channel());
            with_own_files("crowd", move || {
                let opened = namespace
                    .join_current_thread()
                    .and_then(|()| Connections::open(address(number), service, share));
                match opened {
                    Ok(connections) => connections.obey(&orders, &answers),
                    // Nobody waits any more when another one failed.
                    Err(error) => drop(answers.send(Err(error))),
                }
            })?;
            clients.push(Client { commands, replies });
        }
        let mut crowd = Crowd { clients, count };
        crowd.replies()?;
        let first = crowd.round(FIRST_ROUND)?;
        if first.answered < count - count / 100 {
            bail!(
                "{} of {count} connections answered when they were new: {:?}",
                first.answered,
                first.problems
            );
        }
        crowd.count = first.answered;
        Ok(crowd)
    }

    /// Says something on every connection and waits until all have answered, `limit` at most.
    ///
    /// # Errors
    /// When a connection takes nothing any more, or hears what was not said on it.
    pub fn round(&mut self, limit: Duration) -> Result<Round> {
        self.command(Command::Talk(limit))
    }

    /// The first half of [`Crowd::round`], whether anybody answers or not.
    ///
    /// # Errors
    /// When a connection takes nothing any more.
    pub fn say(&mut self) -> Result<()> {
        self.command(Command::Say).map(drop)
    }

    /// The second half of [`Crowd::round`].
    ///
    /// # Errors
    /// When a connection hears what was not said on it.
    pub fn listen(&mut self, limit: Duration) -> Result<Round> {
        self.command(Command::Listen(limit, usize::MAX))
    }

    /// As [`Crowd::round`], of a crowd of one thread where others than `wanted` are not to answer: they are given a second more.
    ///
    /// # Errors
    /// As [`Crowd::round`].
    pub fn round_of(&mut self, wanted: usize, limit: Duration) -> Result<Round> {
        self.say()?;
        self.command(Command::Listen(limit, wanted))
    }

    fn command(&mut self, command: Command) -> Result<Round> {
        for client in &self.clients {
            client.commands.send(command).map_err(|_| anyhow!("a thread of the crowd has ended"))?;
        }
        self.replies()
    }

    fn replies(&self) -> Result<Round> {
        let mut all = Round::default();
        for client in &self.clients {
            let round = client.replies.recv().context("a thread of the crowd has ended")??;
            all.answered += round.answered;
            all.problems.extend(round.problems);
        }
        Ok(all)
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The connections of one thread.
struct Connections {
    /// `None`: it has ended.
    streams: Vec<Option<TcpStream>>,
    epoll: Epoll,
    round: u32,
}

impl Connections {
    fn open(from: Ipv4Addr, service: SocketAddrV4, count: usize) -> Result<Connections> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let streams = connect_all(from, service, count, &epoll)?.into_iter().map(Some).collect();
        Ok(Connections { streams, epoll, round: 0 })
    }

    fn obey(mut self, orders: &mpsc::Receiver<Command>, answers: &mpsc::Sender<Result<Round>>) {
        let mut outcome = Ok(Round::default());
        while answers.send(outcome).is_ok()
            && let Ok(order) = orders.recv()
        {
            outcome = match order {
                Command::Say => self.say(),
                Command::Talk(limit) => {
                    self.round += 1;
                    self.listen(limit, usize::MAX, 0)
                }
                Command::Listen(limit, enough) => self.listen(limit, enough, self.streams.len()),
            };
        }
    }

    fn say(&mut self) -> Result<Round> {
        self.round += 1;
        for number in 0..self.streams.len() {
            if self.say_on(number)? && number.is_multiple_of(WITHOUT_PAUSE) {
                std::thread::sleep(PAUSE);
            }
        }
        Ok(Round::default())
    }

    /// False: it has ended.
    fn say_on(&mut self, number: usize) -> Result<bool> {
        let Some(stream) = &mut self.streams[number] else { return Ok(false) };
        let word = word(number as u32, self.round);
        stream.write_all(&word).with_context(|| format!("connection {number}"))?;
        Ok(true)
    }

    /// `next`: the first connection on which the word of this round is yet to be said.
    fn listen(&mut self, limit: Duration, enough: usize, mut next: usize) -> Result<Round> {
        let mut deadline = Instant::now() + limit;
        let mut heard = vec![0_usize; self.streams.len()];
        let mut round = Round::default();
        let mut ended = self.streams.iter().filter(|stream| stream.is_none()).count();
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut under_way: usize = 0;
        while round.answered + ended < self.streams.len() && Instant::now() < deadline {
            while next < self.streams.len() && under_way < UNDER_WAY {
                under_way += usize::from(self.say_on(next)?);
                next += 1;
            }
            let count = match self.epoll.wait(&mut events, EpollTimeout::from(100_u8)) {
                Err(Errno::EINTR) => 0,
                count => count?,
            };
            for event in &events[..count] {
                let number = event.data() as usize;
                let mut bytes = [0; WORD];
                let Some(stream) = &mut self.streams[number] else { continue };
                match stream.read(&mut bytes[..WORD - heard[number]]) {
                    Ok(length @ 1..) => {
                        let wanted = &word(number as u32, self.round)[heard[number]..][..length];
                        if bytes[..length] != *wanted {
                            bail!("connection {number} heard {:?}, not {wanted:?}", &bytes[..length]);
                        }
                        heard[number] += length;
                        round.answered += usize::from(heard[number] == WORD);
                        under_way = under_way.saturating_sub(usize::from(heard[number] == WORD));
                        if heard[number] == WORD && round.answered == enough {
                            deadline = Instant::now() + A_MOMENT;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    outcome => {
                        ended += 1;
                        under_way = under_way.saturating_sub(1);
                        self.streams[number] = None;
                        if round.problems.len() < 3 {
                            round.problems.push(format!("connection {number}: {outcome:?}"));
                        }
                    }
                }
            }
        }
        Ok(round)
    }
}

fn word(number: u32, round: u32) -> [u8; WORD] {
    (u64::from(round) << 32 | u64::from(number)).to_be_bytes()
}

/// The client's n-th address.
fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 101 + number as u8)
}

fn connect_all(from: Ipv4Addr, service: SocketAddrV4, count: usize, epoll: &Epoll) -> Result<Vec<TcpStream>> {
    let deadline = Instant::now() + FIRST_ROUND;
    let mut streams: Vec<TcpStream> = Vec::with_capacity(count);
    let mut open = 0;
    let mut events = vec![EpollEvent::empty(); EVENTS];
    while open < count {
        while streams.len() < count && streams.len() - open < AT_ONCE {
            let number = streams.len();
            let stream = begin(from, service)?;
            let once = EpollFlags::EPOLLOUT | EpollFlags::EPOLLONESHOT;
            epoll.add(&stream, EpollEvent::new(once, number as u64))?;
            streams.push(TcpStream::from(stream));
        }
        let ready = match epoll.wait(&mut events, EpollTimeout::from(100_u8)) {
            Err(Errno::EINTR) => 0,
            ready => ready?,
        };
        for event in &events[..ready] {
            let stream = &streams[event.data() as usize];
            if let code @ 1.. = getsockopt(stream, sockopt::SocketError)? {
                bail!("connection {}: {}", event.data(), Errno::from_raw(code));
            }
            epoll.modify(stream, &mut EpollEvent::new(EpollFlags::EPOLLIN, event.data()))?;
            open += 1;
        }
        if Instant::now() > deadline {
            bail!("{open} of {count} connections are open after {} s", FIRST_ROUND.as_secs());
        }
    }
    Ok(streams)
}

/// A connection that is being made.
fn begin(from: Ipv4Addr, to: SocketAddrV4) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    // A port may be used again towards another service.
    setsockopt(&stream, sockopt::IpBindAddressNoPort, &true)?;
    bind(stream.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
    match connect(stream.as_raw_fd(), &SockaddrIn::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(stream),
        Err(error) => Err(error).context(SocketAddr::from(to)),
    }
}
