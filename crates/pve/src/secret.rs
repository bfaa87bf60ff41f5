//! Who speaks to the API.

use rest::Secret;

use crate::Error;

/// Who speaks to the API.
#[derive(Clone, Debug)]
pub enum Login {
    /// An API token: `USER@REALM!NAME` and its secret.
    Token { id: String, secret: Secret },
    /// A user's password, for which a ticket is got: /access/ticket.
    Password { user: String, password: Secret },
}

impl Login {
    /// `USER@REALM!NAME=SECRET`, as Proxmox VE shows a new token. The error does not repeat the text.
    pub fn token(text: &str) -> Result<Self, Error> {
        let bad = || Error::Setting("the API token is not of the form USER@REALM!NAME=SECRET".into());
        let (id, secret) = text.trim().split_once('=').ok_or_else(bad)?;
        let (user, name) = id.split_once('!').ok_or_else(bad)?;
        let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && !"=:/\"".contains(c));
        let fits = user.contains('@') && plain(user) && plain(name) && plain(secret);
        if fits { Ok(Login::Token { id: id.into(), secret: Secret::new(secret) }) } else { Err(bad()) }
    }

    /// The name that the API's own checks see: a token is never `root@pam`.
    pub fn user(&self) -> &str {
        match self {
            Login::Token { id, .. } => id,
            Login::Password { user, .. } => user,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "thruway@pve!t1=11111111-2222-4333-8444-555555555555";

    #[test]
    fn a_token_is_read_and_never_shown() {
        let login = Login::token(&format!("{TOKEN}\n")).expect("a token");
        assert_eq!(login.user(), "thruway@pve!t1");
        assert!(!format!("{login:?}").contains("11111111"), "{login:?}");
    }

    #[test]
    fn what_is_no_token_is_not_repeated() {
        for text in ["", "secret", "a=b", "root@pam=secret", "thruway@pve!t1=", "x!y=z\r\nEvil: 1", "u!t=s"] {
            let error = Login::token(text).expect_err("no token").to_string();
            assert!(error.contains("USER@REALM!NAME=SECRET"), "{error}");
            assert!(!error.contains("Evil"), "{error}");
        }
    }
}
