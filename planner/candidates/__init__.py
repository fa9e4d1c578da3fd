"""What could run where: node classes, the requests of each service, and the shapes of instances with their rates."""
