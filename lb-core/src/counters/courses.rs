//! Rules' counts without a walk: what packets that go the same way past the rules have in common is counted once a packet.
//!
//! A *course* is the rules that a packet met from hook to hook, in their order. A worker counts packets and bytes by course; what a rule matched is its
//! own count and those of all courses that it is in. The worker alone opens courses, counts, and closes all of them at once, when their counts become
//! their rules'. Whoever reads meanwhile reads again, so that nothing is missed or counted twice.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, fence};

use super::{Counter, RuleCell};

/// Courses of one worker.
pub const MOST_COURSES: usize = 16_384;
/// Rules in all of them together.
const MOST_STEPS: usize = 8 * MOST_COURSES;

#[derive(Debug, Default)]
struct Course {
    packets: Counter,
    bytes: Counter,
    /// Where its rules begin, and end, among the steps.
    begin: AtomicU32,
    end: AtomicU32,
}

/// What one worker counts by course.
#[derive(Debug)]
pub struct Courses {
    /// Odd while courses are being closed.
    closings: AtomicU32,
    open: AtomicU32,
    courses: Box<[Course]>,
    steps: Box<[AtomicU32]>,
    /// Connections that are walked with each packet, since there was no room for another course: times that this was found.
    pub full: Counter,
}

impl Default for Courses {
    fn default() -> Courses {
        Courses {
            closings: AtomicU32::new(0),
            open: AtomicU32::new(0),
            courses: (0..MOST_COURSES).map(|_| Course::default()).collect(),
            steps: (0..MOST_STEPS).map(|_| AtomicU32::new(0)).collect(),
            full: Counter::default(),
        }
    }
}

impl Courses {
    /// Courses that there are.
    pub fn len(&self) -> usize {
        (self.open.load(Acquire) as usize).min(self.courses.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn open(&self) -> &[Course] {
        &self.courses[..self.len()]
    }

    /// The rules of one that is open.
    pub(crate) fn rules(&self, course: u16) -> impl Iterator<Item = u32> {
        let found = self.courses.get(usize::from(course));
        found.into_iter().flat_map(|course| self.steps(course)).map(|step| step.load(Relaxed))
    }

    fn steps(&self, course: &Course) -> &[AtomicU32] {
        let (begin, end) = (course.begin.load(Relaxed), course.end.load(Relaxed));
        self.steps.get(begin as usize..end as usize).unwrap_or_default()
    }

    /// A new one past these rules; `None`: there is no room.
    pub(crate) fn add(&self, rules: &[u32]) -> Option<u16> {
        let number = self.len();
        let course = self.courses.get(number)?;
        let begin = number.checked_sub(1).map_or(0, |last| self.courses[last].end.load(Relaxed));
        let end = begin as usize + rules.len();
        let steps = self.steps.get(begin as usize..end)?;
        steps.iter().zip(rules).for_each(|(step, rule)| step.store(*rule, Relaxed));
        course.packets.set(0);
        course.bytes.set(0);
        course.begin.store(begin, Relaxed);
        course.end.store(end as u32, Relaxed);
        self.open.store(number as u32 + 1, Release);
        Some(number as u16)
    }

    /// A packet of so many bytes went past its rules.
    #[inline]
    pub(crate) fn count(&self, course: u16, bytes: u64) {
        if let Some(course) = self.courses.get(usize::from(course)) {
            course.packets.add(1);
            course.bytes.add(bytes);
        }
    }

    /// Takes a packet of a course back that was counted a moment ago: it has not met all of its rules.
    #[cold]
    pub(crate) fn take_back(&self, course: u16, bytes: u64) {
        if let Some(course) = self.courses.get(usize::from(course)) {
            course.packets.sub(1);
            course.bytes.sub(bytes);
        }
    }

    /// Ends all courses.
    pub(super) fn close(&self, rules: &[RuleCell]) {
        let closings = self.closings.load(Relaxed);
        self.closings.store(closings.wrapping_add(1), Relaxed);
        fence(Release);
        for course in self.open() {
            for step in self.steps(course) {
                let cell = &rules[(step.load(Relaxed) as usize).min(rules.len() - 1)];
                cell.packets.add(course.packets.get());
                cell.bytes.add(course.bytes.get());
            }
        }
        self.open.store(0, Relaxed);
        self.closings.store(closings.wrapping_add(2), Release);
    }

    /// Adds what each of `rules` matched to what is in its place of `sums`: packets and bytes. False, and nothing is added: the worker is
    /// closing courses, which takes it a fraction of a millisecond.
    pub(super) fn read(&self, rules: &[RuleCell], sums: &mut [(u64, u64)]) -> bool {
        let closings = self.closings.load(Acquire);
        if !closings.is_multiple_of(2) {
            return false;
        }
        let cells = rules.iter().take(sums.len());
        let mut own: Vec<(u64, u64)> = cells.map(|cell| (cell.packets.get(), cell.bytes.get())).collect();
        for course in self.open() {
            let (packets, bytes) = (course.packets.get(), course.bytes.get());
            for step in self.steps(course) {
                if let Some(sum) = own.get_mut(step.load(Relaxed) as usize) {
                    add(sum, (packets, bytes));
                }
            }
        }
        fence(Acquire);
        let is_whole = self.closings.load(Relaxed) == closings;
        if is_whole {
            sums.iter_mut().zip(own).for_each(|(sum, own)| add(sum, own));
        }
        is_whole
    }
}

fn add(sum: &mut (u64, u64), more: (u64, u64)) {
    *sum = (sum.0.wrapping_add(more.0), sum.1.wrapping_add(more.1));
}

#[cfg(test)]
mod tests {
    use super::super::WorkerCounters;

    #[test]
    fn a_rules_count_is_its_own_and_that_of_the_courses_that_it_is_in_also_once_they_are_closed() {
        let counters = WorkerCounters::new(0, 0);
        counters.rule(3).add(40);
        let a = counters.courses.add(&[3, 7]).unwrap();
        let b = counters.courses.add(&[7, 9, 7]).unwrap();
        for (course, bytes) in [(a, 100), (b, 10), (b, 10)] {
            counters.courses.count(course, bytes);
        }
        let read = || {
            let mut sums = WorkerCounters::no_rule_counts();
            assert!(counters.add_rule_counts(&mut sums));
            [3, 7, 9].map(|rule: usize| sums[rule])
        };
        assert_eq!(read(), [(2, 140), (5, 140), (2, 20)]);
        counters.close_courses();
        assert_eq!(read(), [(2, 140), (5, 140), (2, 20)]);
        assert!(counters.courses.is_empty());
        let next = counters.courses.add(&[9]).unwrap();
        counters.courses.count(next, 1);
        assert_eq!((next, read()), (0, [(2, 140), (5, 140), (3, 21)]));
    }

    #[test]
    fn there_are_only_so_many_courses_and_steps() {
        let counters = WorkerCounters::new(0, 0);
        let long: Vec<u32> = (0..1000).collect();
        let courses = std::iter::from_fn(|| counters.courses.add(&long)).count();
        assert_eq!(courses, super::MOST_STEPS / 1000);
        counters.close_courses();
        assert_eq!(std::iter::from_fn(|| counters.courses.add(&[1])).count(), super::MOST_COURSES);
    }
}
