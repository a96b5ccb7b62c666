//! `lb_idletimer_seconds`: how long it is until the timers of rules run out.

use super::Family;
use crate::daemon::Control;

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let help = "Seconds until the timer of the label (IDLETIMER) runs out if no packet comes; 0: it has.";
    let mut seconds = Family::gauge("lb_idletimer_seconds", help);
    for timer in control.idle_timers() {
        seconds.add(&[("label", timer.label.as_str())], timer.left.into());
    }
    vec![seconds]
}
