# A VM with a card on Proxmox VE: Terraform makes the VM, the card is given by thruway.
# The provider is bpg/proxmox; its login and thruway's are the same API token, by the environment.

terraform {
  required_providers {
    proxmox = { source = "bpg/proxmox" }
  }
}

variable "endpoint" {
  type    = string
  default = "https://192.0.2.10:8006"
}

variable "card" {
  type    = string
  default = "26:00.0"
}

resource "proxmox_virtual_environment_vm" "media" {
  name      = "media"
  node_name = "pve"
  vm_id     = 100
  machine   = "q35"
  bios      = "ovmf"
  started   = false

  # what a card needs and what is thruway's to write
  lifecycle {
    ignore_changes = [hostpci, cpu, memory, efi_disk, machine, bios, scsi_hardware, started]
  }
}

# THRUWAY_PVE_TOKEN is read from the environment; on the host itself the card must be held before (see gpu-hosts.yml).
resource "terraform_data" "card" {
  depends_on       = [proxmox_virtual_environment_vm.media]
  triggers_replace = [var.card, proxmox_virtual_environment_vm.media.id]

  provisioner "local-exec" {
    command = "thruway vm apply --pve ${var.endpoint} --give ${var.card} --to vm:100 --yes"
  }
}
