//! What is kept beside a connection's entry: its template's place, its edit, what tracking knows of it, its
//! counts; its labels are a file of their own.

use std::sync::atomic::{Ordering, compiler_fence};

use super::Store;
use crate::conntrack::{Accounting, Status, Tracked};
use crate::flow::edit::Edit;
use crate::flow::entry::FlowId;
use crate::flow::template::TemplatePlace;

impl Store {
    /// The template at which a connection is counted.
    pub(crate) fn template(&self, id: FlowId) -> Option<TemplatePlace> {
        self.entry(id).is_counted().then(|| TemplatePlace(self.beside().more(id)))
    }

    pub(crate) fn set_template(&mut self, id: FlowId, template: TemplatePlace) {
        match self.edit_mut(id) {
            Some(edit) => edit.more = template.0,
            None => self.more[id.0 as usize] = template.0,
        }
        self.entry_mut(id).set_counted();
    }

    /// Connections that are edited, and how many can be.
    pub fn edits(&self) -> (u32, u32) {
        (self.header[0].edits.used, self.edits.len() as u32)
    }

    /// What is done to a connection's packets besides the rewrite.
    #[inline]
    pub fn edit(&self, id: FlowId) -> Option<&Edit> {
        let place = self.more[id.0 as usize] as usize;
        self.entry(id).is_edited().then(|| self.edits.get(place)).flatten()
    }

    #[inline]
    pub fn edit_mut(&mut self, id: FlowId) -> Option<&mut Edit> {
        let place = self.more[id.0 as usize] as usize;
        if self.entry(id).is_edited() { self.edits.get_mut(place) } else { None }
    }

    /// A connection, which has none yet, is edited from now on. Returns false when there is no room.
    #[must_use]
    pub fn begin_edit(&mut self, id: FlowId, edit: Edit) -> bool {
        debug_assert!(!self.entry(id).is_edited());
        let (header, edits) = (&mut self.header[0], &self.edits);
        let Some(place) = header.edits.take(edits.len() as u32, |place| edits[place as usize].more) else {
            return false;
        };
        let more = std::mem::replace(&mut self.more[id.0 as usize], place);
        self.edits[place as usize] = Edit { flow: id.0, more, ..edit };
        // As with the entry: never half of one.
        compiler_fence(Ordering::SeqCst);
        self.entry_mut(id).set_edited(true);
        true
    }

    /// The other way round; a connection that has none stays as it is.
    pub fn end_edit(&mut self, id: FlowId) {
        let Some(&Edit { more, .. }) = self.edit(id) else { return };
        self.entry_mut(id).set_edited(false);
        compiler_fence(Ordering::SeqCst);
        let place = std::mem::replace(&mut self.more[id.0 as usize], more);
        let next_free = self.header[0].edits.give(place);
        self.edits[place as usize] = Edit { flow: Edit::NOBODY, more: next_free, ..Edit::default() };
    }

    /// What rules and tracking know of a connection: nothing of one that neither has come by.
    #[inline]
    pub fn tracked(&self, id: FlowId) -> &Tracked {
        if self.entry(id).is_known() { &self.tracked[id.0 as usize] } else { &Tracked::NOTHING }
    }

    #[inline]
    pub fn prefetch_tracked(&self, id: FlowId) {
        self.tracked.prefetch(id.0 as usize);
    }

    #[inline]
    pub fn tracked_mut(&mut self, id: FlowId) -> &mut Tracked {
        let tracked = &mut self.tracked[id.0 as usize];
        let entry = &mut self.entries[id.0 as usize];
        if !entry.is_known() {
            // What is there is of a connection that had this place before.
            *tracked = Tracked::NOTHING;
            entry.set_known();
        }
        tracked
    }

    /// What was counted of a connection's packets; `None`: nothing is.
    pub fn accounting(&self, id: FlowId) -> Option<&Accounting> {
        let place = || self.counted_at[id.0 as usize] as usize;
        self.is_counted(id).then(|| self.accounting.get(place())).flatten()
    }

    /// The same, from 0 on when nothing was counted yet. `None`: there is no room.
    pub fn accounting_mut(&mut self, id: FlowId) -> Option<&mut Accounting> {
        if !self.is_counted(id) {
            let (header, accounting) = (&mut self.header[0], &self.accounting);
            let next = |place| accounting[place as usize].next_free();
            let place = header.counts.take(accounting.len() as u32, next)?;
            self.accounting[place as usize] = Accounting::default();
            self.counted_at[id.0 as usize] = place;
            self.tracked_mut(id).status.set(Status::COUNTED);
        }
        self.accounting.get_mut(self.counted_at[id.0 as usize] as usize)
    }

    pub(super) fn is_counted(&self, id: FlowId) -> bool {
        self.tracked(id).status.has(Status::COUNTED)
    }

    /// A connection goes: nothing is counted of it any more, and it has no labels.
    pub(super) fn end_beside(&mut self, id: FlowId) {
        const KEPT: Status = Status(Status::COUNTED.0 | Status::LABELLED.0);
        if self.tracked(id).status.has_any(KEPT) {
            self.end_kept(id);
        }
    }

    fn end_kept(&mut self, id: FlowId) {
        if self.tracked(id).status.has(Status::LABELLED) {
            self.end_labels(id);
        }
        if self.is_counted(id) {
            self.tracked_mut(id).status.clear(Status::COUNTED);
            let place = self.counted_at[id.0 as usize];
            self.accounting[place as usize] = Accounting::free(self.header[0].counts.give(place));
        }
    }
}
