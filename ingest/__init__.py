from ..schema.stages import spare_widget_warning

spare_widget_warning()
