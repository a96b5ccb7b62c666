//! By what an entry refers to a course past the rules, which stands in the place of its next hop.

/// A course past the rules (`path/courses.rs`): its era, and its number in that one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CourseId(pub(super) u32);

/// Which courses are meant by their numbers. Its highest bit is always set, which tells a course from a next
/// hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Era(u16);

impl Era {
    pub const FIRST: Era = Era(1 << 15);

    /// 2¹⁵ eras from now on it is this one again.
    #[must_use]
    pub fn next(self) -> Era {
        Era(self.0.wrapping_add(1) | Self::FIRST.0)
    }
}

impl CourseId {
    const ERA_AT: u32 = 16;

    pub fn new(era: Era, number: u16) -> CourseId {
        CourseId(u32::from(era.0) << Self::ERA_AT | u32::from(number))
    }

    #[inline]
    pub fn era(self) -> Era {
        Era((self.0 >> Self::ERA_AT) as u16)
    }

    #[inline]
    pub fn number(self) -> u16 {
        self.0 as u16
    }
}
