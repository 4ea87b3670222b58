//! Topic names and filters (MQTT 5.0 section 4.7).

/// Deeper filters are refused: the subscription tree is as deep as they are.
const MAX_LEVELS: usize = 128;

/// Split `$share/{group}/{filter}`; any other filter has no group.
pub fn split_shared(filter: &str) -> (Option<&str>, &str) {
    filter
        .strip_prefix("$share/")
        .and_then(|rest| rest.split_once('/'))
        .map_or((None, filter), |(group, filter)| (Some(group), filter))
}

/// Is this a well-formed filter, shared or not?
pub fn is_filter(filter: &str) -> bool {
    let (group, plain) = split_shared(filter);
    match group {
        None if filter.starts_with("$share/") => return false,
        Some(group) if group.is_empty() || group.contains(['+', '#']) => return false,
        _ => {}
    }
    if plain.is_empty() || plain.contains('\0') {
        return false;
    }
    if plain.split('/').count() > MAX_LEVELS {
        return false;
    }
    let mut levels = plain.split('/').peekable();
    while let Some(level) = levels.next() {
        let lone = level.len() == 1;
        if level.contains('#') && !(lone && levels.peek().is_none()) || level.contains('+') && !lone
        {
            return false;
        }
    }
    true
}

/// A wildcard in the first level does not match names that start with `$` (section 4.7.2).
pub fn hidden_from_wildcards(name: &str) -> bool {
    name.starts_with('$')
}

/// Does `filter` (not shared) match the topic `name`?
pub fn matches(filter: &str, name: &str) -> bool {
    if hidden_from_wildcards(name) && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut names = name.split('/');
    for level in filter.split('/') {
        match (level, names.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

/// Does `rule` match every topic name that `filter` (not shared) matches?
///
/// It may say no where the answer is yes (`+/#` against `#`), never the other way round.
pub fn covers(rule: &str, filter: &str) -> bool {
    if hidden_from_wildcards(filter) && rule.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = filter.split('/');
    for rule in rule.split('/') {
        match (rule, levels.next()) {
            ("#", _) => return true,
            ("+", Some(level)) if level != "#" => {}
            (rule, Some(level)) if rule == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn filters_are_checked() {
        for filter in ["a", "/", "a/+/b", "+", "#", "a/#", "$share/g/a/#", "$SYS/#", "//"] {
            assert!(is_filter(filter), "{filter}");
        }
        for filter in [
            "",
            "a#",
            "a/#/b",
            "a+/b",
            "+a",
            "$share/g",
            "$share//a",
            "$share/+/a",
            "$share/g/",
            "a\0",
        ] {
            assert!(!is_filter(filter), "{filter}");
        }
    }

    #[test]
    fn matching_follows_the_examples_of_the_standard() {
        for (filter, name) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("sport/#", "sport"),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("$SYS/#", "$SYS/broker"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
        ] {
            assert!(matches(filter, name), "{filter} {name}");
        }
        for (filter, name) in [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("#", "$SYS/broker"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
        ] {
            assert!(!matches(filter, name), "{filter} {name}");
        }
    }

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![Just("a"), Just("b"), Just(""), Just("$x")].prop_map(String::from)
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/"))
    }

    fn filter() -> impl Strategy<Value = String> {
        let levels = prop::collection::vec(prop_oneof![level(), Just("+".into())], 1..4);
        (levels, any::<bool>()).prop_map(|(mut levels, open)| {
            if open {
                levels.push("#".into());
            }
            levels.join("/")
        })
    }

    proptest! {
        #[test]
        fn a_rule_that_covers_a_filter_matches_all_of_its_names(
            rule in filter(), filter in filter(), name in name()
        ) {
            if covers(&rule, &filter) && matches(&filter, &name) {
                prop_assert!(matches(&rule, &name));
            }
        }

        #[test]
        fn a_filter_covers_itself(filter in filter()) {
            prop_assume!(!filter.starts_with('+') || !hidden_from_wildcards(&filter));
            prop_assert!(covers(&filter, &filter));
        }

        #[test]
        fn any_text_is_judged_without_panic(filter in ".*", name in ".*") {
            let _ = (is_filter(&filter), matches(&filter, &name), covers(&filter, &name));
        }
    }
}
