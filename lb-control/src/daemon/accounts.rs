//! The accounts of rules in the daemon: changed, listed, kept for the next start.

use super::Control;
use crate::api::accounts::{AccountCommand, AccountFailure, AccountView};

impl Control {
    /// Makes and removes accounts, all as these commands say or none. No worker has to know of it: rules bring theirs along.
    ///
    /// # Errors
    /// The first command that cannot be done.
    pub fn change_accounts(&mut self, commands: &[AccountCommand]) -> Result<(), AccountFailure> {
        self.rules.change_accounts(commands)?;
        self.keep();
        Ok(())
    }

    pub fn accounts(&self) -> Vec<AccountView> {
        self.rules.account_views()
    }

    /// Has all accounts, or one, begin anew; what they had counted. `None`: there is none of this name.
    pub fn reset_accounts(&mut self, only: Option<&str>) -> Option<Vec<AccountView>> {
        let taken = self.rules.reset_accounts(only)?;
        self.keep();
        Some(taken)
    }

    /// Has what accounts count now written, at the end of the process.
    pub(super) fn keep_counts(&self) {
        if !self.rules.known_accounts().is_empty() {
            self.keep();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::api::accounts::{AccountCommand, AccountView};
    use crate::api::rules::{RuleCounts, RuleFamily};
    use crate::daemon::{Control, fake};

    #[test]
    fn accounts_outlive_the_process_with_what_they_have_counted_and_their_rules() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("model");
        let counts = RuleCounts { packets: 7, bytes: 700 };
        let add = |name: &str| AccountCommand::Add { name: name.to_owned(), quota: None, counts };
        let start = || fake::start_from("", Some(&file)).0;
        let mut control = start();
        control.change_accounts(&[add("web"), add("other")]).expect("room");
        let rule = r#"{"family": "ipv4", "tables": [{"table": "filter", "commands": [
            {"do": "append", "chain": "FORWARD", "rule": ["-m", "nfacct", "--nfacct-name", "web"]}]}]}"#;
        control.change_rules(&serde_json::from_str(rule).expect("a batch")).expect("there");
        let known = control.accounts();
        drop(control);
        let mut control = start();
        assert_eq!(control.accounts(), known);
        let rules = control.rules(RuleFamily::Ipv4, None);
        assert_eq!(
            rules.iter().flat_map(|table| &table.chains).map(|chain| chain.rules.len()).sum::<usize>(),
            1
        );
        let delete = AccountCommand::Delete { name: "web".to_owned() };
        assert!(control.change_accounts(std::slice::from_ref(&delete)).is_err(), "its rule is there again");
        assert_eq!(control.reset_accounts(Some("web")).expect("there"), known[..1]);
        drop(control);
        let is_anew = |view: &AccountView| view.name != "web" || view.counts == RuleCounts::default();
        assert!(start().accounts().iter().all(is_anew));
    }

    fn writes(control: &Control) -> u64 {
        control.keep_counters().expect("a file").written.load(std::sync::atomic::Ordering::Relaxed)
    }

    #[test]
    fn what_was_counted_since_the_last_change_is_kept_at_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("model");
        let start = || fake::start_from("", Some(&file)).0;
        let counts = RuleCounts { packets: 7, bytes: 700 };
        let add = AccountCommand::Add { name: "web".to_owned(), quota: None, counts };
        start().change_accounts(&[add]).expect("room");
        let control = start();
        while writes(&control) == 0 {
            std::thread::yield_now();
        }
        // As packets change it: nothing is told of it.
        control.rules.reset_accounts(None).expect("all");
        drop(control);
        assert_eq!(start().accounts()[0].counts, RuleCounts::default());
    }
}
