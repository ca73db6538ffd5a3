// Package deploy holds what runs the coordinator elsewhere than on a
// developer's machine: the container image, Kubernetes manifests, systemd
// units, alerts and a dashboard. Its tests keep them true to the program.
package deploy
