//! Asking the control plane to have Linux resolve neighbours: the path asks for each packet, one question a second
//! and neighbour gets through.

use std::net::IpAddr;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use lb_core::tables::InterfaceId;
use lb_core::time::Tick;

/// Questions that wait for the control plane, of all workers.
const QUEUE: usize = 1024;
/// Places in the queue. A worker that asked into the place of a question that is just being taken would have to wait for the
/// taker; with so many there is always another.
const PLACES: usize = 2 * QUEUE;
/// Questions that a worker remembers; two that share a place push each other out.
const REMEMBERED: usize = 256;

/// A neighbour to be resolved.
pub type Question = (InterfaceId, IpAddr);
/// Where the questions of all workers wait.
pub type Questions = ArrayQueue<Question>;

pub(crate) fn questions() -> Arc<Questions> {
    Arc::new(ArrayQueue::new(PLACES))
}

/// One worker's side.
pub(crate) struct Asker {
    questions: Arc<Questions>,
    recent: Box<[Option<(Question, Tick)>]>,
}

impl Asker {
    pub(crate) fn new(questions: Arc<Questions>) -> Asker {
        Asker { questions, recent: vec![None; REMEMBERED].into_boxed_slice() }
    }

    /// Asks, unless this worker asked the same within the last second. When the queue is full the question is not
    /// remembered: the next packet asks again.
    pub(crate) fn ask(&mut self, question: Question, now: Tick) {
        let place = &mut self.recent[place(question)];
        let is_recent =
            matches!(*place, Some((asked, at)) if asked == question && now.since(at) < Tick::PER_SECOND);
        if !is_recent && self.questions.len() < QUEUE && self.questions.push(question).is_ok() {
            *place = Some((question, now));
        }
    }
}

fn place((interface, address): Question) -> usize {
    let number = match address {
        IpAddr::V4(a) => u64::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a) as u64,
    };
    let mixed = (number ^ u64::from(interface.0) << 48).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 56) as usize % REMEMBERED
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_neighbour_is_asked_for_once_a_second_whatever_the_packets() {
        let questions = questions();
        let mut asker = Asker::new(questions.clone());
        let question = (InterfaceId(1), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
        for tick in 0..250 {
            asker.ask(question, Tick(tick));
        }
        assert_eq!(questions.len(), 3);
    }

    #[test]
    fn questions_beyond_the_queue_are_asked_again_later() {
        let questions = questions();
        let mut asker = Asker::new(questions.clone());
        let neighbour = |n: u32| (InterfaceId(0), IpAddr::V4(Ipv4Addr::from(n)));
        for n in 0..QUEUE as u32 + 1 {
            asker.ask(neighbour(n), Tick(0));
        }
        while questions.pop().is_some() {}
        asker.ask(neighbour(QUEUE as u32), Tick(0));
        assert_eq!(questions.pop(), Some(neighbour(QUEUE as u32)));
    }
}
