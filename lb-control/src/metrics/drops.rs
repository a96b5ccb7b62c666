//! `lb_drops_total`: packets that were not sent, by reason and hook.

use super::Family;
use crate::daemon::Control;

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let mut drops = Family::counter("lb_drops_total", "Packets that were not sent, by reason and hook.");
    for view in control.drop_views() {
        drops.add(&[("reason", &view.reason), ("hook", &view.hook)], view.packets);
    }
    vec![drops]
}
