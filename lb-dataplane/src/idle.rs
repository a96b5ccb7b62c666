//! A worker's life: turn after turn, and rest when there is nothing to do.
//!
//! A worker that was without work for a millisecond may sleep, unless more is due by time than a turn does.
//! With [`Idle::Interrupt`] it is woken by what comes to it: packets of its ports by their receive
//! interrupts, all else (packets from other workers and from twins, tables) by its [`Bell`], which those ring
//! who put it down. What nobody rings for waits for the end of a sleep: what is due by time, lists, orders.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lb_core::counters::TurnClock;
use lb_core::time::Tick;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::bell::Bell;
use crate::clock::{Clock, cycles};
use crate::config::Idle;
use crate::cpu;
use crate::device::{Backend, Device};
use crate::worker::{Logic, Turned, Worker};

/// Turns without work before a worker takes it easier.
const EMPTY_TURNS: u32 = 64;
/// A sleeping worker's nap, and its nap when there was no work for a second: then so many packets come to a
/// port as its queue holds at five million a second before one is lost.
const NAP: Duration = Duration::from_micros(50);
const LONG_NAP: Duration = Duration::from_micros(200);
/// The longest sleep with interrupts: a tick, so that whatever is due by time is done in its tick.
const LONGEST_SLEEP: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000_000 / Tick::PER_SECOND as i64 };
/// What may wake a worker at once; what is more wakes it once more.
const WAKERS: usize = 16;

/// What a worker does after a millisecond without work.
enum Rest {
    /// It goes on at full speed.
    Poll,
    /// It lets the CPU's sibling thread run.
    Pause,
    Nap,
    Sleep(Bed),
}

impl Rest {
    /// `bell` is that of a worker which is to sleep with interrupts.
    fn of<B: Backend, L: Logic<B::Packet>>(
        idle: Idle,
        cpu: Option<u32>,
        bell: Option<Arc<Bell>>,
        worker: &mut Worker<B, L>,
    ) -> Rest {
        match idle {
            Idle::Poll => Rest::Poll,
            Idle::Pause => Rest::Pause,
            Idle::Auto if cpu.is_some_and(cpu::is_isolated) => Rest::Pause,
            Idle::Auto | Idle::Sleep => Rest::Nap,
            Idle::Interrupt => bell.and_then(|bell| Bed::of(bell, worker)).map_or(Rest::Nap, Rest::Sleep),
        }
    }
}

/// Turns until `stop`; then sends what the worker holds.
pub(crate) fn live<B: Backend, L: Logic<B::Packet>>(
    mut worker: Worker<B, L>,
    clock: Clock,
    (idle, cpu, bell): (Idle, Option<u32>, Option<Arc<Bell>>),
    stop: &AtomicBool,
) {
    let rest = Rest::of(idle, cpu, bell, &mut worker);
    let mut watch = Watch::new(clock);
    let mut lull = Lull::new(clock.hz(), watch.read);
    while !stop.load(Ordering::Relaxed) {
        let turned = watch.turn(&mut worker);
        match (&rest, lull.after(turned, watch.read)) {
            (Rest::Poll, _) | (_, Quiet::Not) => {}
            (Rest::Nap, quiet @ (Quiet::Some | Quiet::Long)) => {
                std::thread::sleep(if quiet == Quiet::Long { LONG_NAP } else { NAP });
                watch.slept(&worker);
            }
            (Rest::Sleep(bed), Quiet::Some | Quiet::Long) => {
                if bed.sleep(&mut worker, &mut watch) {
                    lull.end(watch.read);
                }
            }
            (Rest::Pause | Rest::Nap | Rest::Sleep(_), _) => {
                for _ in 0..8 {
                    std::hint::spin_loop();
                }
            }
        }
    }
    worker.flush();
}

/// How quiet it is after a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Quiet {
    /// The next turn is to follow at once.
    Not,
    /// For some turns.
    Short,
    /// For a millisecond.
    Some,
    /// For a second.
    Long,
}

/// For how long a worker has been without work. What is due by time does not end it, but has to be done
/// before it rests.
struct Lull {
    /// Cycles a second.
    hz: u64,
    since: u64,
    empty_turns: u32,
}

impl Lull {
    fn new(hz: u64, now: u64) -> Lull {
        Lull { hz, since: now, empty_turns: 0 }
    }

    fn end(&mut self, now: u64) {
        (self.since, self.empty_turns) = (now, 0);
    }

    #[inline]
    fn after(&mut self, turned: Turned, now: u64) -> Quiet {
        match turned {
            Turned::Busy => self.end(now),
            Turned::Behind => return Quiet::Not,
            Turned::Idle => self.empty_turns = self.empty_turns.saturating_add(1),
        }
        if self.empty_turns < EMPTY_TURNS {
            return Quiet::Not;
        }
        match now.wrapping_sub(self.since) {
            quiet if quiet > self.hz => Quiet::Long,
            quiet if quiet > self.hz / 1000 => Quiet::Some,
            _ => Quiet::Short,
        }
    }
}

/// Has the worker turn, and counts where its time goes.
struct Watch {
    clock: Clock,
    classes: TurnClock,
    /// When it was last looked at, in cycles.
    read: u64,
}

impl Watch {
    fn new(clock: Clock) -> Watch {
        Watch { clock, classes: TurnClock::new(clock.hz()), read: cycles() }
    }

    #[inline]
    fn turn<B: Backend, L: Logic<B::Packet>>(&mut self, worker: &mut Worker<B, L>) -> Turned {
        let turned = worker.turn(self.clock.tick(self.read));
        let now = cycles();
        let spent = now.wrapping_sub(self.read);
        self.read = now;
        let turns = &worker.counters().turns;
        turns.turns.add(1);
        let (all, classes) = match turned {
            Turned::Busy | Turned::Behind => (&turns.busy_cycles, &turns.busy_turns),
            Turned::Idle => (&turns.idle_cycles, &turns.idle_turns),
        };
        all.add(spent);
        classes[self.classes.class(spent)].add(1);
        turned
    }

    /// Time passed without a turn: what comes meanwhile must not make it count as work.
    fn slept<B: Backend, L: Logic<B::Packet>>(&mut self, worker: &Worker<B, L>) {
        let now = cycles();
        let asleep = now.wrapping_sub(self.read);
        self.read = now;
        let turns = &worker.counters().turns;
        turns.idle_cycles.add(asleep);
        turns.nap_cycles.add(asleep);
    }
}

/// Where a worker sleeps that is woken by what comes.
struct Bed {
    /// The interrupts of the worker's ports, and its bell.
    wakers: OwnedFd,
    bell: Arc<Bell>,
}

impl Bed {
    /// `None`: the worker has a port without receive interrupts, or the kernel gives no file.
    fn of<B: Backend, L: Logic<B::Packet>>(bell: Arc<Bell>, worker: &mut Worker<B, L>) -> Option<Bed> {
        let wakers = epoll::create(CreateFlags::CLOEXEC).ok()?;
        // Told once each time that something comes, so that nobody has to read what interrupts write.
        let how = EventFlags::IN | EventFlags::ET;
        epoll::add(&wakers, bell.event().as_fd(), EventData::new_u64(0), how).ok()?;
        for device in worker.devices() {
            epoll::add(&wakers, device.interrupt()?, EventData::new_u64(0), how).ok()?;
        }
        Some(Bed { wakers, bell })
    }

    /// Sleeps until something comes, or a tick is over; not at all while more is due by time. Returns whether
    /// the worker should stay up: there is work, or will be in a moment.
    #[cold]
    fn sleep<B: Backend, L: Logic<B::Packet>>(&self, worker: &mut Worker<B, L>, watch: &mut Watch) -> bool {
        worker.devices().for_each(Device::arm);
        // What came before that calls nobody, so one more turn has to look, when all is armed: the bell too.
        let mut turned = Turned::Idle;
        let outcome = self.bell.sleep(
            || {
                turned = watch.turn(worker);
                turned != Turned::Idle
            },
            |_| self.wait(),
        );
        if turned == Turned::Idle {
            watch.slept(worker);
        }
        worker.devices().for_each(Device::disarm);
        outcome.unwrap_or(turned == Turned::Busy)
    }

    /// Returns whether it was woken, be it by a signal: by that the TAP driver learns that there are packets.
    fn wait(&self) -> bool {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; WAKERS];
        !matches!(epoll::wait(&self.wakers, &mut events[..], Some(&LONGEST_SLEEP)), Ok(0))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::BorrowedFd;
    use std::time::Instant;

    use arrayvec::ArrayVec;
    use crossbeam::queue::SegQueue;
    use lb_core::counters::{Counter, WorkerCounters};
    use lb_core::flow::Tuple;
    use lb_core::ids::{PortId, WorkerId};
    use lb_core::packet::Frame;
    use lb_core::path::{BURST, Burst, FlowView, Io, Order, Outcome, Steer};
    use lb_core::tables::Tables;

    use super::*;
    use crate::memory_port::{HeapFrames, MemoryPort, Wire, memory_port};
    use crate::ring::{Errand, Outgoing, mesh};
    use crate::tap;
    use crate::team::{Member, Team, Ties};
    use crate::twin::{Host, memory_twin};
    use crate::worker::{Queue, Seat, Twin};

    /// What a worker does with a card.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Step {
        Arm,
        /// It finds so many packets.
        Look(usize),
        Disarm,
    }

    type Happening = Box<dyn FnMut() + Send>;

    /// A port in memory that pretends to have interrupts, writes down what is done with it, and has things
    /// happen right after it.
    struct Card {
        port: MemoryPort,
        event: Option<File>,
        steps: Arc<SegQueue<Step>>,
        after: Option<(Step, Happening)>,
    }

    impl Card {
        fn does(&mut self, step: Step) {
            self.steps.push(step);
            if let Some((_, happening)) = self.after.as_mut().filter(|(after, _)| *after == step) {
                happening();
                self.after = None;
            }
        }
    }

    impl Device<Frame> for Card {
        fn receive(&mut self, burst: &mut Burst<Frame>) {
            self.port.receive(burst);
            self.does(Step::Look(burst.len()));
        }

        fn transmit(&mut self, burst: &mut Burst<Frame>) {
            self.port.transmit(burst);
        }

        fn interrupt(&self) -> Option<BorrowedFd<'_>> {
            self.event.as_ref().map(File::as_fd)
        }

        fn arm(&mut self) {
            self.does(Step::Arm);
        }

        fn disarm(&mut self) {
            self.does(Step::Disarm);
        }
    }

    struct Cards;

    impl Backend for Cards {
        type Packet = Frame;
        type Device = Card;
        type Pool = HeapFrames;

        fn enter_thread() -> Result<(), String> {
            Ok(())
        }

        fn leave_thread() {}
    }

    /// Sends all back by port 0.
    #[derive(Default)]
    struct Back {
        /// Turns that what is due by time takes.
        due: u32,
    }

    impl Logic<Frame> for Back {
        fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables> {
            tables
        }

        fn receive(&mut self, burst: &mut Burst<Frame>, _: Tick, io: &mut impl Io<Frame>) {
            burst.drain(..).for_each(|frame| io.transmit(PortId(0), frame));
        }

        fn receive_handed_over(
            &mut self,
            burst: &mut ArrayVec<(Frame, Steer), BURST>,
            _: Tick,
            io: &mut impl Io<Frame>,
        ) {
            burst.drain(..).for_each(|(frame, _)| io.transmit(PortId(0), frame));
        }

        fn receive_from_twin(
            &mut self,
            _: PortId,
            burst: &mut Burst<Frame>,
            now: Tick,
            io: &mut impl Io<Frame>,
        ) {
            self.receive(burst, now, io);
        }

        fn turn(&mut self, _: Tick, _: &mut impl Io<Frame>) {
            self.due = self.due.saturating_sub(1);
        }

        fn is_behind(&self) -> bool {
            self.due > 0
        }

        fn list(&self, _: u32, _: u32, _: Tick, _: &mut dyn FnMut(FlowView)) -> Option<u32> {
            None
        }

        fn order(&mut self, _: &Tuple, _: &Order, _: Tick) -> Outcome {
            Outcome::Absent
        }
    }

    /// A worker with two cards, one of them with a twin, and what there is around it.
    struct Scene {
        worker: Worker<Cards, Back>,
        bed: Option<Bed>,
        watch: Watch,
        steps: Arc<SegQueue<Step>>,
        /// The first card's: what comes, and its interrupt.
        wire: Wire,
        event: File,
        /// Each used by one test.
        host: Option<Host<Frame>>,
        other: Option<Outgoing<Frame>>,
        bell: Arc<Bell>,
    }

    fn frame() -> Frame {
        Frame::new(PortId(0), &[1; 60])
    }

    fn card(steps: &Arc<SegQueue<Step>>) -> (Card, Wire, File) {
        let (port, wire) = memory_port(8);
        let event = tap::event().unwrap();
        let copy = event.try_clone().unwrap();
        (Card { port, event: Some(event), steps: steps.clone(), after: None }, wire, copy)
    }

    fn interrupt(mut event: &File) {
        event.write_all(&1u64.to_ne_bytes()).unwrap();
    }

    impl Scene {
        fn new() -> Scene {
            Scene::with(Back::default())
        }

        fn with(logic: Back) -> Scene {
            let steps = Arc::new(SegQueue::new());
            let (first, wire, event) = card(&steps);
            // Of the second one nothing is written down.
            let (second, ..) = card(&Arc::default());
            let (end, host) = memory_twin(4);
            let bell = Arc::new(Bell::new(tap::event().unwrap()));
            end.wake_by(bell.clone());
            let mut rings = mesh(2, 8);
            rings[1].wake_by(&[Some(bell.clone()), None]);
            let other = rings[1].outgoing[0].take();
            let seats = vec![
                Seat { queue: Queue::Own(first), twin: Twin::Own(end) },
                Seat { queue: Queue::Own(second), twin: Twin::None },
            ];
            let mut ties = Ties::new([Arc::new(WorkerCounters::new(1, 2))].into());
            let equipment = ties.equip(0, seats, HeapFrames, rings.swap_remove(0));
            let mut worker = Worker::new(equipment, logic);
            let bed = Bed::of(bell.clone(), &mut worker);
            let watch = Watch::new(Clock::calibrate());
            Scene { worker, bed, watch, steps, wire, event, host: Some(host), other, bell }
        }

        fn after(&mut self, step: Step, happening: impl FnMut() + Send + 'static) {
            self.worker.devices().next().unwrap().after = Some((step, Box::new(happening)));
        }

        fn sleep(&mut self) -> bool {
            self.bed.as_ref().unwrap().sleep(&mut self.worker, &mut self.watch)
        }

        fn steps(&self) -> Vec<Step> {
            std::iter::from_fn(|| self.steps.pop()).collect()
        }

        /// Whether a turn finds something and sends it.
        fn works(&mut self) -> bool {
            self.watch.turn(&mut self.worker) == Turned::Busy && self.wire.take().is_some()
        }
    }

    #[test]
    fn a_packet_that_comes_while_the_interrupt_is_armed_is_found_before_the_sleep() {
        let mut scene = Scene::new();
        let wire = scene.wire.clone();
        // It raises none.
        scene.after(Step::Arm, move || wire.put(frame()).unwrap());
        assert!(scene.sleep());
        assert_eq!(scene.steps(), [Step::Arm, Step::Look(1), Step::Disarm]);
        assert!(scene.wire.take().is_some(), "it is served");
        assert_eq!(scene.worker.counters().turns.nap_cycles.get(), 0, "it did not sleep");
    }

    #[test]
    fn a_packet_that_comes_after_the_look_ends_the_sleep() {
        let mut scene = Scene::new();
        let (wire, event) = (scene.wire.clone(), scene.event.try_clone().unwrap());
        scene.after(Step::Look(0), move || {
            wire.put(frame()).unwrap();
            interrupt(&event);
        });
        assert!(scene.sleep());
        assert_eq!(scene.steps(), [Step::Arm, Step::Look(0), Step::Disarm]);
        assert!(scene.works());
    }

    #[test]
    fn a_sleep_ends_by_itself_and_an_interrupt_wakes_once_though_nobody_reads_it() {
        let mut scene = Scene::new();
        assert!(!scene.sleep());
        assert_eq!(scene.steps(), [Step::Arm, Step::Look(0), Step::Disarm]);
        assert!(scene.worker.counters().turns.nap_cycles.get() > 0);
        for _ in 0..3 {
            interrupt(&scene.event);
            assert!(scene.sleep(), "it came since the last sleep");
            assert!(!scene.sleep());
        }
    }

    #[test]
    fn a_worker_sleeps_only_when_all_is_done_that_is_due_and_then_at_once() {
        let mut scene = Scene::with(Back { due: 3 });
        for is_left in [true, true, false] {
            assert!(!scene.sleep(), "it need not stay up for a millisecond");
            assert_eq!(scene.steps(), [Step::Arm, Step::Look(0), Step::Disarm]);
            let turns = &scene.worker.counters().turns;
            assert_eq!(turns.nap_cycles.get() == 0, is_left);
        }
        let turns = &scene.worker.counters().turns;
        let counts =
            [&turns.busy_turns, &turns.idle_turns].map(|all| all.iter().map(Counter::get).sum::<u64>());
        assert_eq!(counts, [2, 1]);
    }

    /// Where a cycle is a nanosecond, turns take a microsecond each, and sleeps ten milliseconds: what a
    /// worker does in so many milliseconds of a lull while so many turns are behind, turns and sleeps.
    fn turns_and_sleeps(milliseconds: u64, mut behind: u32) -> (u32, u32) {
        let (mut now, mut turns, mut sleeps) = (0, 0, 0);
        let mut lull = Lull::new(1_000_000_000, now);
        // The millisecond before the first sleep is none of it.
        while lull.after(Turned::Idle, now) != Quiet::Some {
            now += 1_000;
        }
        let until = now + milliseconds * 1_000_000;
        while now < until {
            let turned = if behind > 0 { Turned::Behind } else { Turned::Idle };
            (behind, turns, now) = (behind.saturating_sub(1), turns + 1, now + 1_000);
            if matches!(lull.after(turned, now), Quiet::Some | Quiet::Long) {
                (sleeps, now) = (sleeps + 1, now + 10_000_000);
            }
        }
        (turns, sleeps)
    }

    #[test]
    fn what_is_due_by_time_is_done_as_fast_as_turns_are_and_a_worker_with_nothing_due_sleeps_after_each_turn()
    {
        assert_eq!(turns_and_sleeps(1000, 0), (100, 100));
        // A million connections at 256 a turn.
        assert_eq!(
            turns_and_sleeps(4, 3907),
            (3908, 1),
            "no sleep before the last one, and one right after it"
        );
        assert_eq!(turns_and_sleeps(1000, 3907), (3907 + 100, 100));
    }

    #[test]
    fn a_lull_has_turns_and_a_time_and_work_ends_it() {
        let mut lull = Lull::new(1_000_000, 0);
        for turn in 1..EMPTY_TURNS {
            assert_eq!(lull.after(Turned::Idle, turn.into()), Quiet::Not, "{turn}");
        }
        assert_eq!(lull.after(Turned::Idle, 1_000), Quiet::Short);
        assert_eq!(lull.after(Turned::Idle, 1_001), Quiet::Some);
        assert_eq!(lull.after(Turned::Behind, 1_002), Quiet::Not);
        assert_eq!(lull.after(Turned::Idle, 1_003), Quiet::Some, "it goes on");
        assert_eq!(lull.after(Turned::Idle, 1_000_001), Quiet::Long);
        assert_eq!(lull.after(Turned::Busy, 1_000_002), Quiet::Not);
        assert_eq!(lull.after(Turned::Idle, 2_000_000), Quiet::Not);
    }

    #[test]
    fn what_the_host_sends_ends_the_sleep() {
        let mut scene = Scene::new();
        let mut host = scene.host.take().unwrap();
        // The second card is looked at after the twin.
        let second = scene.worker.devices().last().unwrap();
        second.after = Some((Step::Look(0), Box::new(move || host.put(frame()).unwrap())));
        assert!(scene.sleep());
        assert!(scene.worker.counters().turns.nap_cycles.get() > 0, "the look came too early");
        assert!(scene.works());
    }

    #[test]
    fn what_another_worker_hands_over_ends_the_sleep() {
        let mut scene = Scene::new();
        let mut other = scene.other.take().unwrap();
        scene.after(Step::Look(0), move || {
            assert!(other.put(frame(), Errand::Own(Steer::Plain)).is_ok() && other.send());
        });
        assert!(scene.sleep() && scene.works());
    }

    #[test]
    fn a_bell_that_rang_before_the_sleep_ends_it() {
        let mut scene = Scene::new();
        scene.bell.wake();
        assert!(scene.sleep());
        assert!(!scene.sleep(), "once");
    }

    #[test]
    fn a_worker_with_a_port_without_interrupts_does_not_wait_for_any() {
        let mut scene = Scene::new();
        scene.worker.devices().last().unwrap().event = None;
        assert!(Bed::of(scene.bell.clone(), &mut scene.worker).is_none());
        let rest = Rest::of(Idle::Interrupt, None, Some(scene.bell.clone()), &mut scene.worker);
        assert!(matches!(rest, Rest::Nap));
    }

    fn until(mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !done() {
            assert!(Instant::now() < deadline, "it never came");
            std::thread::yield_now();
        }
    }

    #[test]
    fn workers_that_sleep_answer_packets_their_own_and_others_and_end() {
        let counters: Arc<[_]> = (0..2).map(|_| Arc::new(WorkerCounters::new(1, 2))).collect();
        let steps: [Arc<SegQueue<Step>>; 2] = Default::default();
        let (mut cards, wires): (Vec<_>, Vec<_>) = steps
            .iter()
            .map(|steps| {
                let (card, wire, event) = card(steps);
                (Some(card), (wire, event))
            })
            .unzip();
        // Each worker has one of the ports, and all goes out by the first one's.
        let members = (0..2u16).map(|worker| Member {
            cpu: None,
            seats: (0..2u16)
                .map(|port| Seat::<Cards> {
                    queue: match cards[usize::from(port)].take_if(|_| port == worker) {
                        Some(card) => Queue::Own(card),
                        None => Queue::Of(WorkerId(port)),
                    },
                    twin: Twin::None,
                })
                .collect(),
            pool: HeapFrames,
            logic: Back::default,
        });
        let team = Team::start(members.collect(), counters, Idle::Interrupt).unwrap();
        for round in 0..20 {
            let asleep = |worker: usize| team.counters()[worker].turns.nap_cycles.get();
            let before = [asleep(0), asleep(1)];
            until(|| asleep(0) > before[0] && asleep(1) > before[1]);
            let (wire, event) = &wires[round % 2];
            wire.put(frame()).unwrap();
            interrupt(event);
            until(|| wires[0].0.take().is_some());
        }
        drop(team);
        let steps: Vec<_> = std::iter::from_fn(|| steps[1].pop()).collect();
        assert!(steps.windows(2).all(|pair| pair[0] != Step::Arm || matches!(pair[1], Step::Look(_))));
        let count = |step| steps.iter().filter(|&&done| done == step).count();
        assert!(count(Step::Arm) >= 10 && count(Step::Arm) == count(Step::Disarm));
    }
}
