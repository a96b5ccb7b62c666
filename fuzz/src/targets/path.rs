//! Any packets in any order, with time that passes and tables that change between them, leave the path in order: no
//! packet is lost or there twice, each does what the reference director says, and counts, entries and owners agree.

use arbitrary::Unstructured;
use lb_core::time::Tick;
use sim::watched::Watched;

use crate::scene::Plan;
use crate::workers::{Step, Workers};

pub(crate) fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok((number, now, is_out_of_buffers)) = input.arbitrary() else { return };
    let mut workers = Workers::<Watched>::new(number, Plan::USUAL, Tick(now), is_out_of_buffers);
    let Ok(steps) = input.arbitrary_iter::<Step>() else { return };
    steps.map_while(Result::ok).for_each(|step| workers.step(step));
    workers.end();
}
