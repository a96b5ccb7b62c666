//! A property that did not hold.

/// Which one, by name, and what was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub name: &'static str,
    pub what: String,
}

pub type Checked<T = ()> = Result<T, Violation>;

/// Refuses with the name of the invariant and a message unless the condition holds.
macro_rules! hold {
    ($condition:expr, $name:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::violation::Violation { name: $name, what: format!($($message)+) });
        }
    };
}
pub(crate) use hold;
