"""The bundled tasks: drawings of emoji and icons, and corruptions that make them harder."""
