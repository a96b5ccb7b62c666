//! What is to be set of connections, and what that changes of one.

use lb_core::conntrack::{Labels, Status};
use lb_core::path::{Change, FlowView};
use lb_core::time::Timeout;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Masked, StatusBit, Statuses, Tracked, labels};

/// Body of `PATCH /v1/conntrack`: what becomes of the connections that fit. What is not given stays as it is.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConntrackChange {
    /// A mark; with `/` and a mask only those bits of the old one are taken away first, and the new ones put in by exclusive or.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub mark: Option<Masked>,
    /// Seconds from now, at most 2678400, until it ends if nothing comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// `SEEN_REPLY`, `ASSURED`, `FIXED_TIMEOUT`: these are set. None can be taken away, as in the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub status: Option<Statuses>,
    /// Labels that are taken away, by number: 0 to 127.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub label_del: Vec<u8>,
    /// Labels that are set, after that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub label_add: Vec<u8>,
    /// What they have counted is 0 from here on; all that fit are listed, with what they had. Nothing else is set then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub zero: bool,
}

impl ConntrackChange {
    /// # Errors
    /// What cannot be set.
    pub fn check(&self) -> Result<(), String> {
        if self.zero && *self != (ConntrackChange { zero: true, ..ConntrackChange::default() }) {
            return Err("zero: nothing else is set with it".to_owned());
        }
        if let Some(timeout) = self.timeout.filter(|&timeout| timeout > Timeout::MAX_SECS) {
            return Err(format!("timeout {timeout} is outside 0..={}", Timeout::MAX_SECS));
        }
        labels(&self.label_del)?;
        labels(&self.label_add)?;
        match self.bits().find(|bit| settable(*bit).is_none()) {
            Some(bit) => {
                Err(format!("status {bit} cannot be set; SEEN_REPLY, ASSURED and FIXED_TIMEOUT can"))
            }
            None => Ok(()),
        }
    }

    fn bits(&self) -> impl Iterator<Item = StatusBit> {
        self.status.iter().flat_map(|all| all.0.iter().copied())
    }

    /// What the worker has to set of a connection, which is shown as `tracked` then; `None`: nothing changes.
    pub fn of(&self, view: &FlowView, tracked: &mut Tracked) -> Option<Change> {
        let mark = self.mark.map(|mark| view.known.mark & !mark.mask ^ mark.value);
        let mut status = Status::NONE;
        self.bits().filter_map(settable).for_each(|bit| status.set(bit));
        let [lost, gained] =
            [&self.label_del, &self.label_add].map(|numbers| Labels::of(numbers.iter().copied()));
        let labels = view.known.labels.without(lost).and(gained);
        let has_new = !view.known.status.has(status);
        let change = Change {
            mark: mark.filter(|&mark| mark != view.known.mark),
            timeout: self.timeout.map(Timeout::from_secs),
            status: if has_new { status } else { Status::NONE },
            labels: if labels == view.known.labels { [Labels::NONE; 2] } else { [lost, gained] },
        };
        tracked.mark = mark.unwrap_or(tracked.mark);
        tracked.labels = labels.bits().collect();
        tracked.expires = self.timeout.unwrap_or(tracked.expires);
        let missing: Vec<StatusBit> = self.bits().filter(|&bit| has_new && !tracked.has(bit)).collect();
        tracked.status.extend(missing);
        if tracked.has(StatusBit::SeenReply) {
            tracked.status.retain(|&bit| bit != StatusBit::Unreplied);
        }
        (change != Change::default()).then_some(change)
    }
}

/// The bit of those that can be set from outside.
pub(super) fn settable(bit: StatusBit) -> Option<Status> {
    match bit {
        StatusBit::SeenReply => Some(Status::SEEN_REPLY),
        StatusBit::Assured => Some(Status::ASSURED),
        StatusBit::FixedTimeout => Some(Status::FIXED_TIMEOUT),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_else_is_set_where_counts_become_0() {
        let zero = ConntrackChange { zero: true, ..ConntrackChange::default() };
        assert_eq!(zero.check(), Ok(()));
        let both = ConntrackChange { timeout: Some(5), ..zero };
        assert_eq!(both.check(), Err("zero: nothing else is set with it".to_owned()));
    }
}
