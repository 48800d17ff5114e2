//! Who a container runs as: names from the pod and the image, looked up in the image's own files.

use serde::{Deserialize, Serialize};

use amphipod_cri::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};

use crate::error::Error;

/// A numeric identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Home directory, if the image knows the user.
    #[serde(default)]
    pub home: Option<String>,
}

/// Content of the image's `/etc/passwd` and `/etc/group`; empty when absent.
#[derive(Debug, Default)]
pub struct UserFiles {
    pub passwd: String,
    pub group: String,
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl UserFiles {
    fn users(&self) -> impl Iterator<Item = PasswdEntry<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1).unwrap_or_default();
            Some(PasswdEntry { name, uid, gid, home })
        })
    }

    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or_default()))
        })
    }

    fn group_id(&self, name: &str) -> Result<u32, Error> {
        if let Ok(gid) = name.parse() {
            return Ok(gid);
        }
        let found = self.groups().find(|(known, _, _)| *known == name).map(|(_, gid, _)| gid);
        found.ok_or_else(|| {
            Error::InvalidArgument(format!("unable to find group {name}: no matching entries in group file"))
        })
    }

    /// Groups the image puts a user into.
    fn groups_of(&self, name: &str) -> Vec<u32> {
        let member = |members: &str| members.split(',').any(|member| member == name);
        self.groups().filter(|(_, _, members)| member(members)).map(|(_, gid, _)| gid).collect()
    }
}

/// Decides the identity from the pod's security context and the image's `user[:group]`.
pub fn identity(
    security: &LinuxContainerSecurityContext,
    image_user: &str,
    files: &UserFiles,
) -> Result<Identity, Error> {
    if security.run_as_group.is_some()
        && security.run_as_user.is_none()
        && security.run_as_username.is_empty()
        && image_user.is_empty()
    {
        return Err(Error::InvalidArgument("run_as_group is set without a user".into()));
    }
    let (user, group) = image_user.split_once(':').unwrap_or((image_user, ""));
    let asked = match (&security.run_as_user, security.run_as_username.as_str()) {
        (Some(uid), _) => uid.value.to_string(),
        (None, "") => user.to_string(),
        (None, name) => name.to_string(),
    };
    let from_image = security.run_as_user.is_none() && security.run_as_username.is_empty();
    let mut found = look_up(&asked, files)?;
    if from_image && !group.is_empty() {
        found.identity.gid = files.group_id(group)?;
    }
    if let Some(gid) = &security.run_as_group {
        found.identity.gid = number(gid.value)?;
    }
    let mut groups = match security.supplemental_groups_policy() {
        SupplementalGroupsPolicy::Merge => {
            found.name.as_deref().map(|name| files.groups_of(name)).unwrap_or_default()
        }
        SupplementalGroupsPolicy::Strict => Vec::new(),
    };
    for group in &security.supplemental_groups {
        groups.push(number(*group)?);
    }
    // The primary group counts as one of the process's groups.
    groups.push(found.identity.gid);
    groups.sort_unstable();
    groups.dedup();
    found.identity.groups = groups;
    Ok(found.identity)
}

struct Found {
    identity: Identity,
    name: Option<String>,
}

fn look_up(user: &str, files: &UserFiles) -> Result<Found, Error> {
    let user = if user.is_empty() { "0" } else { user };
    let wanted: Option<u32> = user.parse().ok();
    let fits = |entry: &PasswdEntry<'_>| entry.name == user || wanted == Some(entry.uid);
    if let Some(entry) = files.users().find(fits) {
        let home = Some(entry.home.to_string()).filter(|home| !home.is_empty());
        let identity = Identity { uid: entry.uid, gid: entry.gid, groups: Vec::new(), home };
        return Ok(Found { identity, name: Some(entry.name.to_string()) });
    }
    match wanted {
        Some(uid) => Ok(Found { identity: Identity { uid, ..Identity::default() }, name: None }),
        None => Err(Error::InvalidArgument(format!(
            "unable to find user {user}: no matching entries in passwd file"
        ))),
    }
}

fn number(value: i64) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| Error::InvalidArgument(format!("{value} is not a user or group ID")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use amphipod_cri::v1::Int64Value;

    fn files() -> UserFiles {
        UserFiles {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/var/www:/bin/false\nbroken\n".into(),
            group: "root:x:0:\nweb:x:102:\nadm:x:4:web,root\n".into(),
        }
    }

    fn context(user: Option<i64>, group: Option<i64>, extra: &[i64]) -> LinuxContainerSecurityContext {
        LinuxContainerSecurityContext {
            run_as_user: user.map(|value| Int64Value { value }),
            run_as_group: group.map(|value| Int64Value { value }),
            supplemental_groups: extra.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn identities() {
        let of = |security: &LinuxContainerSecurityContext, image: &str| {
            let found = identity(security, image, &files()).unwrap();
            (found.uid, found.gid, found.groups)
        };
        let none = context(None, None, &[]);
        assert_eq!(of(&none, ""), (0, 0, vec![0, 4]));
        assert_eq!(of(&none, "web"), (101, 102, vec![4, 102]));
        assert_eq!(of(&none, "web:root"), (101, 0, vec![0, 4]));
        assert_eq!(of(&none, "1000:1000"), (1000, 1000, vec![1000]));
        assert_eq!(of(&context(Some(1000), None, &[2000]), "web"), (1000, 0, vec![0, 2000]));
        assert_eq!(of(&context(Some(101), Some(7), &[]), ""), (101, 7, vec![4, 7]));
        let mut strict = context(Some(101), None, &[9]);
        strict.supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
        assert_eq!(of(&strict, ""), (101, 102, vec![9, 102]));
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(identity(&context(None, None, &[]), "ghost", &files()).is_err());
        assert!(identity(&context(None, None, &[]), "web:ghosts", &files()).is_err());
        assert!(identity(&context(Some(-1), None, &[]), "", &files()).is_err());
        assert!(identity(&context(None, Some(1), &[]), "", &files()).is_err());
    }
}
