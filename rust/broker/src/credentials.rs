//! Users and their passwords, in the format of `mosquitto_passwd`, and the ACL beside them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::Sha512;
use subtle::ConstantTimeEq;

use crate::acl::Acl;
use crate::config::Config;

const MAX_ITERATIONS: u32 = 1_000_000;

/// One line: `user:$7${iterations}${salt}${key}`, PBKDF2-HMAC-SHA512, base64.
#[derive(Debug, PartialEq, Eq)]
pub struct Password {
    iterations: u32,
    salt: Vec<u8>,
    key: Vec<u8>,
}

/// Everything that says who may connect and what they may do.
#[derive(Debug, Default)]
pub struct Credentials {
    pub passwords: HashMap<String, Arc<Password>>,
    pub acl: Acl,
}

impl Credentials {
    /// Read both files; the error is one sentence.
    pub fn load(config: &Config) -> Result<Self, String> {
        Ok(Self {
            passwords: load_passwords(&config.password_file)?,
            acl: Acl::load(&config.acl_file)?,
        })
    }

    /// The password of `user`, or one that nothing matches but that takes as long to check.
    pub fn password(&self, user: &str) -> Arc<Password> {
        self.passwords.get(user).cloned().unwrap_or_else(|| {
            Arc::new(Password { iterations: 101, salt: vec![0; 12], key: Vec::new() })
        })
    }
}

impl Password {
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.strip_prefix("$7$")?.split('$');
        let iterations = fields.next()?.parse().ok()?;
        let salt = STANDARD.decode(fields.next()?).ok()?;
        let key = STANDARD.decode(fields.next()?).ok()?;
        let valid = (1..=MAX_ITERATIONS).contains(&iterations)
            && key.len() == 64
            && fields.next().is_none();
        valid.then_some(Self { iterations, salt, key })
    }

    /// Compare in constant time. It takes 50 µs at 101 iterations: not for the event loop.
    pub fn verify(&self, password: &[u8]) -> bool {
        let mut key = [0; 64];
        pbkdf2::pbkdf2_hmac::<Sha512>(password, &self.salt, self.iterations, &mut key);
        self.key.ct_eq(&key).into()
    }
}

fn load_passwords(path: &Path) -> Result<HashMap<String, Arc<Password>>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the password file {}: {error}", path.display()))?;
    let mut passwords = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (user, password) = line
            .split_once(':')
            .and_then(|(user, rest)| Some((user, Password::parse(rest.trim_end())?)))
            .filter(|(user, _)| !user.is_empty())
            .ok_or_else(|| {
                format!(
                    "password file {}, line {}: not of the form user:$7$iterations$salt$key",
                    path.display(),
                    number + 1
                )
            })?;
        passwords.insert(user.to_owned(), Arc::new(password));
    }
    Ok(passwords)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `mosquitto_passwd -b FILE user secret` (2.0.11).
    const LINE: &str = "$7$101$TNYXOyze34etuan2$1up4+cqwWEDjqHjsqcq7Lw8Qn5XrQn86JmMMH59XZjsjVRTemSFrkatRFzbp2kGezJ08Y28THGo0IAY6oNj8rQ==";

    #[test]
    fn a_line_of_mosquitto_passwd_is_understood() {
        let password = Password::parse(LINE).unwrap();
        assert!(password.verify(b"secret"));
        assert!(!password.verify(b"Secret"));
        assert!(!password.verify(b""));
    }

    #[test]
    fn an_unknown_user_has_no_password() {
        let password = Credentials::default().password("nobody");
        assert!(!password.verify(b"") && !password.verify(b"secret"));
    }

    #[test]
    fn a_broken_line_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwords");
        for line in ["user:plain", "user:$7$0$AA==$AA==", "user:$6$AA==$AA==", ":x", "nocolon"] {
            std::fs::write(&path, format!("a:{LINE}\n{line}\n")).unwrap();
            assert!(load_passwords(&path).unwrap_err().contains("line 2"), "{line}");
        }
    }
}
