//! Fingerprints of operating systems, as `nfnl_osf` loads them.

use std::sync::Arc;

use lb_core::rule::fingerprint::{BadFingerprint, Fingerprint, Fingerprints, Full, MOST, MOST_OF_A_SHAPE};

use super::{Change, Model};
use crate::api::types::{ErrorBody, ErrorKind};

fn bad(error: BadFingerprint) -> ErrorBody {
    ErrorBody::new(ErrorKind::InvalidOperation, error.to_string())
}

impl Model {
    /// In the order in which they were added.
    pub fn fingerprints(&self) -> &Arc<Fingerprints> {
        &self.fingerprints
    }

    pub(super) fn add_fingerprint(&mut self, line: &str) -> Result<Change, ErrorBody> {
        let new = Fingerprint::read(line).map_err(bad)?;
        let added = Arc::make_mut(&mut self.fingerprints).add(new);
        let publish = added.map_err(|full| {
            let why = match full {
                Full::All => format!("there are {MOST}, no more is possible"),
                Full::Shape => {
                    format!("there are {MOST_OF_A_SHAPE} with its size, df and options, no more is possible")
                }
            };
            ErrorBody::new(ErrorKind::Full, format!("fingerprint {line:?}: {why}"))
        })?;
        Ok(Change { publish, ..Change::default() })
    }

    pub(super) fn remove_fingerprint(&mut self, line: &str) -> Result<Change, ErrorBody> {
        let old = Fingerprint::read(line).map_err(bad)?;
        if !Arc::make_mut(&mut self.fingerprints).remove(&old) {
            return Err(ErrorBody::new(
                ErrorKind::NotFound,
                format!("fingerprint {line:?}: no such fingerprint"),
            ));
        }
        Ok(Change { publish: true, ..Change::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::Command;
    use crate::model::Limits;

    const LINES: [&str; 3] = [
        "S4:64:1:60:M*,S,T,N,W7:Linux:2.6:8:x",
        "*:128:1:48:M*,N,N,S:@Windows:XP::y",
        "16384:64:0:40:.:ULTRIX:4.5::z",
    ];

    fn model() -> Model {
        Model::new(Limits { services: 1, servers: 1 })
    }

    fn add(line: &str) -> Command {
        Command::AddFingerprint { line: line.to_owned() }
    }

    fn remove(line: &str) -> Command {
        Command::RemoveFingerprint { line: line.to_owned() }
    }

    fn written(model: &Model) -> Vec<String> {
        model.fingerprints().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn they_are_kept_in_their_order_and_once() {
        let mut model = model();
        for line in LINES {
            assert!(model.apply(&add(line)).is_ok_and(|change| change.publish));
            assert!(model.apply(&add(line)).is_ok_and(|change| !change.publish), "it is there");
        }
        assert!(model.apply(&remove(LINES[0])).is_ok_and(|change| change.publish));
        let error = model.apply(&remove(LINES[0])).expect_err("it is gone");
        assert_eq!(error.error, ErrorKind::NotFound);
        assert!(model.apply(&add(LINES[0])).is_ok_and(|change| change.publish));
        let expected = [
            "*:128:1:48:M*,N,N,S:Windows:XP::",
            "16384:64:0:40:.:ULTRIX:4.5::",
            "S4:64:1:60:M*,S,T,N,W7:Linux:2.6:8:",
        ];
        assert_eq!(written(&model), expected);
        let mut again = self::model();
        again.apply_all(&model.commands().collect::<Vec<_>>()).expect("right");
        assert_eq!(written(&again), expected);
    }

    #[test]
    fn what_is_wrong_changes_nothing() {
        let mut model = model();
        model.apply(&add(LINES[0])).expect("right");
        let before = model.fingerprints().clone();
        let (index, error) = model.apply_all(&[add(LINES[1]), add("a:b")]).expect_err("no fingerprint");
        assert_eq!((index, error.error), (1, ErrorKind::InvalidOperation));
        assert!(error.message.contains("2 fields, expected 9"), "{error}");
        assert!(Arc::ptr_eq(&before, model.fingerprints()));
    }

    #[test]
    fn one_too_many_is_refused_with_the_number_that_is_possible() {
        let mut model = model();
        let line = |ttl: usize| format!("*:{}:1:60:.:x:{}::", ttl % 256, ttl / 256);
        (0..MOST_OF_A_SHAPE).for_each(|ttl| assert!(model.apply(&add(&line(ttl))).is_ok()));
        let error = model.apply(&add(&line(MOST_OF_A_SHAPE))).expect_err("full");
        assert_eq!(error.error, ErrorKind::Full);
        assert!(
            error.message.ends_with("there are 256 with its size, df and options, no more is possible"),
            "{error}"
        );
    }
}
