#!/bin/sh
# First process of a lab host: gives it a disk, a network and sshd, then reaps what it inherits until it is killed.
# Arguments: the host's folder, its name, its address with prefix length. It runs in namespaces of its own.
set -eu
folder=$1 name=$2 address=$3
root=$folder/root-fs

read -r pid _ < /proc/self/stat # /proc is still the machine's: this is the pid that the machine knows
echo "$pid"
read -r _ # the cable is plugged in

hostname "$name"
ip link set lo up
ip address add "$address" dev eth0
ip link set eth0 up

mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys" 2>/dev/null || mount --rbind /sys "$root/sys"
mount --bind /dev "$root/dev"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$root/dev/pts"
mount -t tmpfs -o size=2g,mode=1777 tmpfs "$root/dev/shm" # vLLM and Ray want one
mount -t tmpfs -o size=256m,mode=0755 tmpfs "$root/run"
for fresh in root home tmp; do
    mount --bind "$folder/$fresh" "$root/$fresh"
done
while read -r path; do # what every host sees of the machine, whatever it is mounted from
    mkdir -p "$root$path"
    mount -o bind,ro "$path" "$root$path"
done < "$folder/shared"

mkdir "$root/run/sshd"
cd "$root"
pivot_root . mnt
umount -l /mnt
exec < /dev/null
echo up
exec > /dev/null
env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /usr/sbin/sshd -D -e -f /etc/ssh/lab_sshd_config &
while :; do sleep 3600; done
