//! The front-end of one site of the simulated world.

use super::world::{NAMES, Shared, VMS};
use async_trait::async_trait;
use onemirror::opennebula::{
    Datastore, Disk, Host, Image, LcmState, OneError, OpenNebula, Recover, User, Vm, VmAction, VmState, Zone,
};
use onemirror_model::storage::Site;

pub(crate) struct SimulatedFrontEnd {
    pub(crate) site: Site,
    pub(crate) sim: Shared,
}

/// What is no part of this world.
fn no_way<T>() -> Result<T, OneError> {
    Err(OneError::Configuration("not simulated".into()))
}

impl SimulatedFrontEnd {
    async fn called(&self, call: &str) -> onemirror_model::world::Vm {
        let call = format!("front-end of {}: {call}", NAMES[self.site]);
        self.sim.called(call, |sim| sim.world.vms[self.site]).await
    }
}

#[async_trait(?Send)]
impl OpenNebula for SimulatedFrontEnd {
    fn endpoint(&self) -> &str {
        NAMES[self.site]
    }

    fn user_name(&self) -> &str {
        "oneadmin"
    }

    fn clock_ahead(&self) -> Option<i64> {
        None
    }

    async fn vm(&self, id: i32) -> Result<Vm, OneError> {
        use onemirror_model::world::Vm as Simulated;
        let (state, lcm_state) = match self.called("vm").await {
            Simulated::Off => (VmState::Poweroff, LcmState::LcmInit),
            Simulated::Booting | Simulated::Cleared => (VmState::Active, LcmState::BootPoweroff),
            Simulated::Running => (VmState::Active, LcmState::Running),
            Simulated::Pending => (VmState::Pending, LcmState::LcmInit),
            Simulated::LettingGo => (VmState::Active, LcmState::Epilog),
            Simulated::Saved => (VmState::Suspended, LcmState::LcmInit),
            Simulated::Restoring | Simulated::RestoreCleared => (VmState::Active, LcmState::BootSuspended),
        };
        if id != VMS[self.site] {
            return Err(OneError::NoExists(format!("VM {id}")));
        }
        let disk = Disk {
            tm_mad: Some("ceph".into()),
            datastore_id: Some(1),
            source: Some("one/one-7".into()),
            image_id: Some(7),
            clone: Some(false),
            disk_type: Some("RBD".into()),
            ..Disk::default()
        };
        Ok(Vm { id, state, lcm_state, disks: vec![disk], has_context: true, ..Vm::default() })
    }

    async fn vm_pool(&self) -> Result<Vec<Vm>, OneError> {
        no_way()
    }

    async fn image_pool(&self) -> Result<Vec<Image>, OneError> {
        self.called("images").await;
        let (source, vms) = ("one/one-7".into(), vec![VMS[self.site]]);
        Ok(vec![Image { id: 7, source, datastore_id: 1, persistent: true, vms, ..Image::default() }])
    }

    async fn datastore(&self, id: i32) -> Result<Datastore, OneError> {
        self.called("datastore").await;
        Ok(Datastore { id, tm_mad: "ceph".into(), pool_name: Some("one".into()), ..Datastore::default() })
    }

    async fn datastore_pool(&self) -> Result<Vec<Datastore>, OneError> {
        no_way()
    }

    async fn host_pool(&self) -> Result<Vec<Host>, OneError> {
        no_way()
    }

    async fn zone_pool(&self) -> Result<Vec<Zone>, OneError> {
        no_way()
    }

    async fn own_user(&self) -> Result<User, OneError> {
        self.called("user").await;
        Ok(User { id: 0, name: "oneadmin".into(), groups: vec![0] })
    }

    async fn system_version(&self) -> Result<String, OneError> {
        no_way()
    }

    async fn vm_action(&self, _: VmAction, _: i32) -> Result<(), OneError> {
        no_way()
    }

    async fn vm_recover(&self, _: i32, _: Recover) -> Result<(), OneError> {
        no_way()
    }

    async fn vm_update_append(&self, _: i32, _: &str) -> Result<(), OneError> {
        no_way()
    }

    async fn image_allocate(&self, _: &str, _: i32) -> Result<i32, OneError> {
        no_way()
    }
}
