//! Any packets through any rules: none is lost or there twice, checksums are right, no two connections can be taken for each
//! other, and what answers a translated packet goes back to where that came from.

use arbitrary::{Arbitrary, Unstructured};
use lb_core::packet::Frame;
use lb_core::path::Path;
use lb_core::time::Tick;

use crate::rules::{InProcess, Line, compiled};
use crate::scene::{Plan, Sent};
use crate::workers::{Step, Workers};

/// Rules that are put in at a time.
const MOST: usize = 12;

#[derive(Arbitrary, Debug)]
enum Act {
    /// Instead of those that are there, or behind them.
    Rules {
        is_new: bool,
        lines: Vec<Line>,
    },
    /// From the host.
    Host(Sent),
    Step(Step),
    /// What answers packet `nth` of those that left.
    Answered {
        worker: u8,
        nth: u8,
    },
}

pub(crate) fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok((number, now)) = input.arbitrary() else { return };
    let mut workers = Workers::<Path<Frame>>::new(number, Plan::USUAL, Tick(now), false);
    let mut keeper = InProcess::new();
    let mut untracks = false;
    let Ok(acts) = input.arbitrary_iter::<Act>() else { return };
    for act in acts.map_while(Result::ok) {
        match act {
            Act::Rules { is_new, mut lines } => {
                lines.truncate(MOST);
                if is_new {
                    (keeper, untracks) = (InProcess::new(), false);
                }
                untracks |= lines.iter().any(|line| line.untracks());
                workers.set_rules(compiled(&mut keeper, &lines));
            }
            Act::Host(sent) => workers.host_sends(&sent),
            Act::Step(step) => workers.step(step),
            // What is of no connection goes on as it is.
            Act::Answered { .. } if untracks => {}
            Act::Answered { worker, nth } => workers.check_answer(worker, nth),
        }
    }
    workers.end();
}
