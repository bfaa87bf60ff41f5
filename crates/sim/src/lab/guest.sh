# The short form: the card changes hands and comes back.

look before
judge seen "thruway gpus: exit status $status" grep -q 10de:1d01 /before
judge told "$(echo $(grep 'on host' /before))" grep -q '^ *on host  *0000:2b:00.0, slot 4, NUMA 0, x16 16.0 GT/s' /before

# The audio function by name: its card goes, whole.
hand bind bind "$audio" --yes
judge bind "thruway host bind: exit status $status" [ "$status" = 0 ]
judge bind-gpu "$gpu: driver $(driver "$gpu")" [ "$(driver "$gpu")" = vfio-pci ]
judge bind-audio "$audio: driver $(driver "$audio")" [ "$(driver "$audio")" = vfio-pci ]
judge node "$(ls -l "/dev/vfio/$group" 2>&1)" [ -c "/dev/vfio/$group" ]
look bound
# Line by line: the audio function stands in a line "with" of its own.
says_vfio() { grep -q '^ *driver  *vfio-pci' /bound && grep -q 'with .*driver vfio-pci' /bound; }
judge seen-vfio "thruway gpus: exit status $status" says_vfio

# A driver that does not know the GPU refuses it, when vfio-pci has let go already: it goes back.
hand wrong bind "$gpu" --to snd_hda_intel --yes
says_back() {
    [ "$status" = 2 ] && grep -q "No such device" /wrong &&
        [ "$(driver "$gpu") $(driver "$audio")" = "vfio-pci vfio-pci" ]
}
judge rolled-back "thruway host bind --to snd_hda_intel: exit status $status, $gpu: driver $(driver "$gpu")" says_back

# A user of the group is named and nothing is torn from it; told so, thruway ends it.
sleep 100 3<>"/dev/vfio/$group" &
user=$!
hand busy unbind "$gpu" --yes
says_user() { [ "$status" = 1 ] && grep -q "process $user (sleep)" /busy && [ "$(driver "$gpu")" = vfio-pci ]; }
judge in-use "thruway host unbind: exit status $status, $gpu: driver $(driver "$gpu")" says_user
hand ended unbind "$gpu" --stop-holders --yes
judge unbind "thruway host unbind --stop-holders: exit status $status" [ "$status" = 0 ]
judge user-gone "process $user: $(kill -0 "$user" 2>&1 || echo ended)" [ ! -e "/proc/$user/exe" ]
read -r override <"$pci/$gpu/driver_override"
judge back-gpu "$gpu: driver $(driver "$gpu"), driver_override $override" [ "$(driver "$gpu") $override" = "$gpu_was (null)" ]
read -r override <"$pci/$audio/driver_override"
judge back-audio "$audio: driver $(driver "$audio"), driver_override $override" [ "$(driver "$audio") $override" = "$audio_was (null)" ]
judge node-gone "/dev/vfio: $(echo $(ls /dev/vfio))" [ ! -e "/dev/vfio/$group" ]
look after
judge seen-back "thruway gpus says what it said at first" cmp -s /before /after
finish
