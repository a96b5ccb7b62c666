//! `lb_rule_*`: connections that follow a course past the rules, and are not compared with each again.

use lb_core::counters::{Courses, MOST_COURSES};

use super::Family;
use crate::daemon::Control;

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let workers = control.plane().counters();
    let sum = |of: fn(&Courses) -> u64| workers.iter().map(|worker| of(&worker.courses)).sum();
    let open = sum(|courses| courses.len() as u64);
    vec![
        Family::gauge("lb_rule_courses", "Ways past the rules that connections take, by which packets are counted.")
            .with(&[], open),
        Family::gauge("lb_rule_courses_limit", "Such ways that there is room for.")
            .with(&[], (MOST_COURSES * workers.len()) as u64),
        Family::counter("lb_rule_courses_full_total", "Packets for whose way there was no room: their connections are compared with rules packet by packet.")
            .with(&[], sum(|courses| courses.full.get())),
    ]
}
