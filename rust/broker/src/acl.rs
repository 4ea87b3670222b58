//! Who may read and write which topics, in the format of mosquitto's `acl_file`.

use std::collections::HashMap;
use std::path::Path;

use crate::topic;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    ReadWrite,
    Deny,
}

#[derive(Clone, Debug)]
struct Rule {
    access: Access,
    filter: String,
}

/// A parsed ACL file.
#[derive(Debug, Default)]
pub struct Acl {
    users: HashMap<String, Vec<Rule>>,
    patterns: Vec<Rule>,
}

/// The rules that hold for one user under one client id.
#[derive(Debug, Default)]
pub struct Permissions {
    own: Vec<Rule>,
    patterns: Vec<Rule>,
}

impl Acl {
    /// Read and parse a file; the error is one sentence.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read the ACL file {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("ACL file {}, {error}", path.display()))
    }

    /// Parse the text of an ACL file; the error names the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut acl = Self::default();
        let mut user = None;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (keyword, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let rest = rest.trim();
            match keyword {
                "user" if !rest.is_empty() => {
                    acl.users.entry(rest.to_owned()).or_default();
                    user = Some(rest.to_owned());
                }
                "topic" | "pattern" => {
                    let rule = parse_rule(rest).map_err(|e| format!("line {}: {e}", number + 1))?;
                    match &user {
                        _ if keyword == "pattern" => acl.patterns.push(rule),
                        Some(user) => acl.users.entry(user.clone()).or_default().push(rule),
                        // Rules before the first user are for anonymous clients: there are none.
                        None => {}
                    }
                }
                _ => {
                    return Err(format!(
                        "line {}: {keyword:?} is not `user NAME`, `topic` or `pattern`",
                        number + 1
                    ));
                }
            }
        }
        Ok(acl)
    }

    /// The rules for `user` under `client_id`.
    pub fn permissions(&self, user: &str, client_id: &str) -> Permissions {
        // A wildcard in a name that a client chose must not widen a pattern.
        let safe = !user.contains(['+', '#']) && !client_id.contains(['+', '#']);
        let patterns = self.patterns.iter().filter(|_| safe).map(|rule| Rule {
            access: rule.access,
            filter: rule.filter.replace("%u", user).replace("%c", client_id),
        });
        Permissions {
            own: self.users.get(user).cloned().unwrap_or_default(),
            patterns: patterns.collect(),
        }
    }
}

impl Permissions {
    /// May a message be published to the topic `name`?
    pub fn may_write(&self, name: &str) -> bool {
        !topic::hidden_from_wildcards(name) && self.allows(name, Access::Write)
    }

    /// May a message of the topic `name` be delivered?
    pub fn may_read(&self, name: &str) -> bool {
        self.allows(name, Access::Read)
    }

    /// May `filter` be subscribed to? Every topic it can match must be readable.
    pub fn may_subscribe(&self, filter: &str) -> bool {
        let (_, filter) = topic::split_shared(filter);
        let covered =
            |rule: &Rule| grants(rule, Access::Read) && topic::covers(&rule.filter, filter);
        self.own.iter().any(covered) || self.patterns.iter().any(covered)
    }

    /// Can a permitted subscription match a topic that may not be read?
    pub fn has_denials(&self) -> bool {
        let denies = |rule: &Rule| rule.access == Access::Deny;
        self.own.iter().any(denies) || self.patterns.iter().any(denies)
    }

    /// Mosquitto's order: the user's own rules before the patterns, a denial before a grant.
    fn allows(&self, name: &str, wanted: Access) -> bool {
        verdict(&self.own, name, wanted)
            .or_else(|| verdict(&self.patterns, name, wanted))
            .unwrap_or(false)
    }
}

fn verdict(rules: &[Rule], name: &str, wanted: Access) -> Option<bool> {
    let mut allowed = None;
    for rule in rules.iter().filter(|rule| topic::matches(&rule.filter, name)) {
        if rule.access == Access::Deny {
            return Some(false);
        }
        if grants(rule, wanted) {
            allowed = Some(true);
        }
    }
    allowed
}

fn grants(rule: &Rule, wanted: Access) -> bool {
    rule.access == wanted || rule.access == Access::ReadWrite
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let (access, filter) = match word {
        "read" => (Access::Read, rest.trim()),
        "write" => (Access::Write, rest.trim()),
        "readwrite" => (Access::ReadWrite, rest.trim()),
        "deny" => (Access::Deny, rest.trim()),
        _ => (Access::ReadWrite, text),
    };
    if !topic::is_filter(filter) {
        return Err(format!("{filter:?} is not a topic filter"));
    }
    Ok(Rule { access, filter: filter.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: &str = "
# a comment
topic read anonymous/only
user bridge
topic readwrite i/#
topic read $SYS/#
topic deny i/secret/#

user agent
topic i/T/a/A/#
pattern write up/%u/%c
";

    fn permissions(user: &str, client: &str) -> Permissions {
        Acl::parse(FILE).unwrap().permissions(user, client)
    }

    #[test]
    fn an_agent_has_its_own_topics_only() {
        let agent = permissions("agent", "c");
        assert!(agent.may_write("i/T/a/A/endpoints/x"));
        assert!(agent.may_subscribe("i/T/a/A/cmd/+"));
        assert!(agent.may_subscribe("$share/g/i/T/a/A/#"));
        for filter in ["#", "+/#", "i/#", "i/T/a/+/cmd", "i/T/a/B/#", "$SYS/#", "$share/g/i/#"] {
            assert!(!agent.may_subscribe(filter), "{filter}");
        }
        assert!(!agent.may_write("i/T/a/B/endpoints/x"));
        assert!(!agent.may_read("i/T/a/AB"));
    }

    #[test]
    fn patterns_substitute_user_and_client() {
        let agent = permissions("agent", "c");
        assert!(agent.may_write("up/agent/c"));
        assert!(!agent.may_write("up/bridge/c"));
        assert!(!agent.may_read("up/agent/c"));
        assert!(!permissions("agent", "+").may_write("up/agent/+"));
        assert!(!permissions("#", "c").may_write("up/x"));
    }

    #[test]
    fn a_denial_wins_over_a_grant() {
        let bridge = permissions("bridge", "c");
        assert!(bridge.may_read("i/open/x") && bridge.may_subscribe("i/#"));
        assert!(!bridge.may_read("i/secret/x") && !bridge.may_write("i/secret/x"));
        assert!(bridge.has_denials());
    }

    #[test]
    fn nobody_writes_below_dollar() {
        let all = Acl::parse("user u\ntopic $SYS/#").unwrap().permissions("u", "c");
        assert!(all.may_subscribe("$SYS/#") && !all.may_write("$SYS/broker/x"));
    }

    #[test]
    fn unknown_users_may_nothing() {
        let nobody = permissions("nobody", "c");
        assert!(!nobody.may_write("i/T/a/A/x") && !nobody.may_subscribe("anonymous/only"));
    }

    #[test]
    fn a_wrong_line_is_named() {
        assert_eq!(
            Acl::parse("user u\ntopic read a/#/b").unwrap_err(),
            "line 2: \"a/#/b\" is not a topic filter"
        );
        assert!(Acl::parse("usr u").unwrap_err().starts_with("line 1"));
    }

    proptest! {
        #[test]
        fn what_may_be_subscribed_may_be_read(
            rule in "[a+]{1}(/[a+]{1}){0,2}(/#)?", filter in "[a+]{1}(/[a+]{1}){0,2}(/#)?",
            name in "a(/a){0,3}"
        ) {
            let granted = Acl::parse(&format!("user u\ntopic read {rule}")).unwrap().permissions("u", "c");
            if granted.may_subscribe(&filter) && topic::matches(&filter, &name) {
                prop_assert!(granted.may_read(&name));
            }
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "(?s).*") {
            let _ = Acl::parse(&text);
        }
    }
}
